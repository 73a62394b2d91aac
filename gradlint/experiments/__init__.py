"""Experiments that run the training setup again, for questions that its trace leaves open."""
