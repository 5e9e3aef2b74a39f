"""Decorators and helpers for methods of handlers."""
