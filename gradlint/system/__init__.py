"""The files, text and processes of the system, and what a recording changes in its own process."""
