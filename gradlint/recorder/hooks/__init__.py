"""Hooks on modules, optimizers and backward passes."""
