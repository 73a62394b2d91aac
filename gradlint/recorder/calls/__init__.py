"""Torch calls as they happen: the function mode and the tape it writes."""
