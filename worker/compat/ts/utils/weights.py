"""Reads what torch.save wrote, without running what is written in it."""

import logging
import os
from collections.abc import Mapping
from pickle import UnpicklingError  # what torch raises; nothing is unpickled here
from typing import IO, Any  # whatever was saved

import torch

logger = logging.getLogger(__name__)


def load_weights(
    source: str | os.PathLike[str] | IO[bytes],
    map_location: torch.device | str | None,
    config: Mapping[str, Any] | None,
) -> Any:
    """Read tensors and plain containers, and anything else only where model-config.yaml asks for it.

    `handler: {weights_only: false}` asks: loading then may run code that is hidden in the file, and the log
    says so. Raises RuntimeError with that advice for a file that holds more than tensors.
    """
    handler = (config or {}).get("handler")
    if isinstance(handler, Mapping) and handler.get("weights_only") is False:
        logger.warning("weights_only is false in model-config.yaml: code inside %s may run", source)
        return torch.load(source, map_location=map_location, weights_only=False)
    try:
        return torch.load(source, map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        raise RuntimeError(
            f"{source} holds more than tensors and plain containers, and loading that may run code. If you "
            "trust where it comes from, put `handler: {weights_only: false}` into the archive's "
            f"model-config.yaml ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    """Return the one line of torch's page of advice that names what it did not load."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "WeightsUnpickler error" in line), lines[0])
