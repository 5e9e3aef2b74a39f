"""What tests share: waiting for something to become true, and nothing that waits blindly."""

import asyncio
import time
from collections.abc import Callable

from torchrelay.shared.archives.reader import ArchiveReader

POLL_INTERVAL_S = 0.01
#: One for all tests: its process ends with theirs.
READER = ArchiveReader()
#: What has not come true by then never will, however busy the machine is. How long something takes is
#: nothing that a test may judge by real time.
HANG_S = 120.0


def eventually(predicate: Callable[[], object], within_s: float = HANG_S) -> None:
    """Wait until the predicate holds; fail after `within_s`."""
    deadline = time.monotonic() + within_s
    while not predicate():
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        time.sleep(POLL_INTERVAL_S)


async def eventually_async(predicate: Callable[[], object], within_s: float = HANG_S) -> None:
    """Wait as `eventually` does, while the event loop goes on."""
    deadline = time.monotonic() + within_s
    while not predicate():
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        await asyncio.sleep(POLL_INTERVAL_S)
