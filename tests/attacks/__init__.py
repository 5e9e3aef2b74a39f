"""Attacks on a server of their own, and what becomes of honest requests meanwhile: `make attack`."""
