"""The source pass: what a syntax tree proves by itself. Runs none of the user's code and imports no torch, ever."""
