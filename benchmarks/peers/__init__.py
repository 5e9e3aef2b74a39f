"""Measures torchrelay beside other model servers, each in an environment of its own."""
