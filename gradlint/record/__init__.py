"""Recording: one run of the user's build and one real eager forward and loss, written down as a Trace."""
