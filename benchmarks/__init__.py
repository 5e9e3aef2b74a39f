"""Measures torchrelay, and TorchServe beside it, on one machine."""
