"""Helpers for handlers: parts of answers, and classes by name."""

import importlib
from typing import Any

from ts.protocol.otf_message_handler import create_predict_response as create_predict_response
from ts.protocol.otf_message_handler import (
    send_intermediate_predict_response as send_intermediate_predict_response,
)


def import_class(class_name: str, module_prefix: str | None = None) -> Any:
    """Return the class `module.Class`, its module below `module_prefix` if there is one.

    Raises ImportError for a name without a module, or a module without that class.
    """
    module_name, _, name = (class_name or "").rpartition(".")
    path = ".".join(part for part in (module_prefix, module_name) if part)
    if not name or not path:
        raise ImportError(f"{class_name!r} names no class of a module")
    found = getattr(importlib.import_module(path), name, None)
    if found is None:
        raise ImportError(f"the module {path} has no class {name}")
    return found
