"""Inputs for the forward: parsed, taken from the model, or searched."""
