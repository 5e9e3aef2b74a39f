"""Logging: set up once, written by a thread, files moved away when they are long."""
