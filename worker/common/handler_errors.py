"""Exceptions of a model's own code: caught, and what they say about themselves; no I/O."""

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

#: Longer lines are cut: they end in JSON bodies and in `status`.
LINE_LIMIT = 500


def guarded(function: Callable[..., object], *arguments: object) -> object:
    """Call a handler's own code; return what it raises, instead of raising it.

    SystemExit alone is raised: whoever raises it wants this process to end.
    """
    try:
        return function(*arguments)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001  # boundary: a handler may raise anything, and its worker goes on
        # The exception's own code runs where it is written down, and may raise as well.
        if function is not _log:
            guarded(_log, error)
        return error


def _log(error: BaseException) -> None:
    logger.warning("Invoking custom service failed.", exc_info=error)


def text_of(value: object) -> str:
    """Return a value's text, whatever its own code does: a plain string, which can be sent."""
    text = guarded(_text_of, value)
    return text if type(text) is str else f"<{type(value).__name__} without a text>"


def _text_of(value: object) -> str:
    # Of a string of a class of its own the characters count, not what it makes of them; the halves of
    # surrogate pairs, which UTF-8, and so no message, has, are escaped.
    return str.__str__(str(value)).encode(errors="backslashreplace").decode()


def one_line(error: BaseException) -> str:
    """Return `ValueError: bad pixel`: the last line of a traceback, and of a longer message its first."""
    text = text_of(error).strip()
    line = f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
    return line if len(line) <= LINE_LIMIT else f"{line[:LINE_LIMIT]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, on the host or on the device.

    TorchServe counts every exception whose text has `CUDA` in it, and clients know its 507.
    """
    return isinstance(error, MemoryError) or "CUDA" in text_of(error)
