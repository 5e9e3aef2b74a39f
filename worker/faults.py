"""Exceptions of a model's own code: caught, and what they say about themselves; no I/O."""

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

#: Longer lines are cut: they end in JSON bodies and in `status`.
LINE_LIMIT = 500


def guarded(function: Callable[..., object], *arguments: object) -> object:
    """Call a handler's own code; return what it raises, instead of raising it."""
    try:
        return function(*arguments)
    except Exception as error:  # boundary: a handler may raise anything, and its worker goes on
        logger.warning("Invoking custom service failed.", exc_info=True)
        return error


def encodable(text: str) -> str:
    """Return a text with escapes for the halves of surrogate pairs, which UTF-8, and so no message, has."""
    return text.encode(errors="backslashreplace").decode()


def one_line(error: BaseException) -> str:
    """Return `ValueError: bad pixel`: the last line of a traceback, and of a longer message its first."""
    text = encodable(str(error)).strip()
    line = f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
    return line if len(line) <= LINE_LIMIT else f"{line[:LINE_LIMIT]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, on the host or on the device.

    TorchServe counts every exception whose text has `CUDA` in it, and clients know its 507.
    """
    return isinstance(error, MemoryError) or "CUDA" in str(error)
