"""Whether a fleet keeps its promises while one thing after another fails: real processes, real faults."""
