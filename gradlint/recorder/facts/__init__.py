"""What is read off the objects before and after the run, and the one builder of the trace."""
