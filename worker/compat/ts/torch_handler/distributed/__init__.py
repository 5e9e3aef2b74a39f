"""Base handlers for models that several processes hold."""
