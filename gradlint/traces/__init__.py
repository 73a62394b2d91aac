"""The record of building and running a training setup, as plain data."""
