"""The demonstration: a federation of real processes on this machine, and a story played on it (`make demo`)."""
