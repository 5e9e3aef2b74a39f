"""Writes lines to the terminal of a running server, by a thread, since the terminal may be stopped."""

import functools
import logging

from torchrelay.shared.logs.log_thread import STDOUT, BackgroundHandler, ConsoleHandler
from torchrelay.shared.terminal import printable


def say(text: str) -> None:
    """Have a line written; a stopped or closed terminal doesn't block the server."""
    _handler().handle(logging.makeLogRecord({"msg": printable(text)}))


def flush() -> None:
    """Wait until all lines are written, or the terminal is stopped: for a process that calls exec."""
    _handler().flush()


@functools.cache
def _handler() -> BackgroundHandler:
    return BackgroundHandler(ConsoleHandler(STDOUT))
