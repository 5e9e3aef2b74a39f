"""A node and its worker processes: everything that runs a model."""
