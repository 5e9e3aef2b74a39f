"""Preprocessing by other libraries."""
