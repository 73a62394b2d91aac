"""Runs the training setup again to settle what a trace cannot tell."""
