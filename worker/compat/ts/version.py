"""The TorchServe release whose API this package offers; handlers ask for it to tell features apart."""

__version__ = "0.12.0"
