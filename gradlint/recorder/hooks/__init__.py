"""Hooks on modules, optimizers, backward passes and gradients."""
