"""What a running server says on its terminal: a thread writes it, for the terminal may take nothing."""

import functools
import logging

from torchrelay.shared.logs.log_thread import STDOUT, BackgroundHandler, ConsoleHandler
from torchrelay.shared.terminal import printable


def say(text: str) -> None:
    """Have a line written; a reader that is stuck, or has gone, ends no server."""
    _handler().handle(logging.makeLogRecord({"msg": printable(text)}))


def flush() -> None:
    """Wait until all has been written, or the terminal takes nothing: for a process that becomes another."""
    _handler().flush()


@functools.cache
def _handler() -> BackgroundHandler:
    return BackgroundHandler(ConsoleHandler(STDOUT))
