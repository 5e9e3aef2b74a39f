"""Has a benchmark that is interrupted stop its servers, which are in sessions of their own."""

import signal
import sys
from types import FrameType
from typing import NoReturn

#: The exit status of a benchmark that was interrupted.
INTERRUPTED = 130


def interrupt_by_signals() -> None:
    """Raise KeyboardInterrupt at SIGTERM, too, and once only."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """End this program, and before that the servers.

    Whoever presses Ctrl-C again does not keep them from being stopped.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    print("Stopping all servers ...", file=sys.stderr, flush=True)
    raise KeyboardInterrupt
