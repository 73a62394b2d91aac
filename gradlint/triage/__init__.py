"""Which findings count: suppressions, baselines, filters, fixes."""
