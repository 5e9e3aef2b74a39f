"""Imports packages that only some handlers need, when they are needed."""

import importlib
from typing import Any


def require(name: str, user: str) -> Any:
    """Import a module (its package may have no types); raises ImportError that says who needs what."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(f"{user} needs the package {package}, which is not installed here") from error
