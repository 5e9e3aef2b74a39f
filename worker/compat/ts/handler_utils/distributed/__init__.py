"""Set-up of models that several processes hold."""
