"""Target → training setup: import, call build(), understand what it returns."""
