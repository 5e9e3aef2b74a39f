"""Which models are registered, and every change of that. Pure."""
