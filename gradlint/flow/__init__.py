"""Trace → which parameters the loss depends on and its gradient reaches, and the cuts between."""
