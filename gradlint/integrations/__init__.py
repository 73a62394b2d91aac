"""Callbacks for training frameworks. Each module imports its framework, and nothing imports them by itself."""
