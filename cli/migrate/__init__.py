"""Moving from TorchServe: what runs unchanged, and whether two servers answer the same."""
