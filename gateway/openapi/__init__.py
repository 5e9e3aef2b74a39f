"""The OpenAPI documents that describe what can be called."""
