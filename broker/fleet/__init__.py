"""Nodes and workers: what is there, what is wanted, and who goes where. Pure."""
