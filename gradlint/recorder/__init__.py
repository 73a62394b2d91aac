"""Training setup → trace: runs the user’s program under hooks."""
