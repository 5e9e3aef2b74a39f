"""The process that holds a model: it loads it, runs what it is assigned, and answers."""
