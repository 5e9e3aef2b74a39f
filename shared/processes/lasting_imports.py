"""Imports modules of a process that lives long: nobody looks for garbage in them, then or later."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def lasting_imports() -> Iterator[None]:
    """Keep what is imported inside from the garbage collector: it stays.

    PERF: looking for garbage in it again and again took an eighth of the time that imports take, and looking
    once more when a process begins to serve, 50 ms in the broker. What forks look at stays shared, too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
