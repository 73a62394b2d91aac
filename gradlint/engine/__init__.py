"""The main line: load, record, analyse, judge, report."""
