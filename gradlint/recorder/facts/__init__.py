"""Facts read from objects before and after the run, and the one builder of the trace."""
