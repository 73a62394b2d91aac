"""Settings files, and the files they apply to."""
