"""Archives of models: fetched, checked, and kept by content. Blocking; runs in threads."""
