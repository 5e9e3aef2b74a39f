"""What tests share: waiting for something to become true, and nothing that waits blindly."""

import asyncio
import time
from collections.abc import Callable

from torchrelay.shared.archives.reader import ArchiveReader

#: How often it is looked at first and at last: many look by a request, and a server that has as many of those
#: as it can take is not ready sooner.
POLL_FIRST_S, POLL_LAST_S = 0.01, 0.05
#: In between, by what part of the time so far a wait may be too long.
POLL_SHARE = 0.05
#: One for all tests: its process ends with theirs.
READER = ArchiveReader()
#: What has not come true by then never will, however busy the machine is. How long something takes is
#: nothing that a test may judge by real time.
HANG_S = 120.0


def eventually(predicate: Callable[[], object], within_s: float = HANG_S) -> None:
    """Wait until the predicate holds; fail after `within_s`."""
    began = time.monotonic()
    while not predicate():
        time.sleep(_pause_s(time.monotonic() - began, within_s))


async def eventually_async(predicate: Callable[[], object], within_s: float = HANG_S) -> None:
    """Wait as `eventually` does, while the event loop goes on."""
    began = time.monotonic()
    while not predicate():
        await asyncio.sleep(_pause_s(time.monotonic() - began, within_s))


def _pause_s(waited_s: float, within_s: float) -> float:
    assert waited_s < within_s, f"not so within {within_s} s"
    return min(max(POLL_FIRST_S, waited_s * POLL_SHARE), POLL_LAST_S)
