"""Provide inputs for the forward: parsed from ``--input``, taken from the model, or found by a search."""
