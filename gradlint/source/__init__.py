"""Text → what its syntax proves. Imports no torch and runs nothing it reads."""
