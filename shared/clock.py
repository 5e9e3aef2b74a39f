"""Clocks; the one place that reads them."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

#: Seconds that only grow, for every timeout and duration inside one process.
monotonic = time.monotonic


def wall_ms() -> int:
    """Read the wall clock in milliseconds since 1970, for times that people read."""
    return time.time_ns() // 1_000_000


def wall_of(now: float, wall_ms: int) -> Callable[[float], int]:
    """Return what turns monotonic seconds into milliseconds since 1970, by two readings of one moment."""
    offset_ms = wall_ms - now * 1000
    return lambda at: int(at * 1000 + offset_ms)


def iso(ms: int) -> str:
    """Write a wall clock time as TorchServe does: `2026-01-31T12:00:00.000Z`, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def local_iso(ms: int) -> str:
    """Write a wall clock time as TorchServe's log does: `2026-01-31T12:00:00,000`, in the host's zone."""
    return (
        datetime.fromtimestamp(ms / 1000, UTC).astimezone().strftime("%Y-%m-%dT%H:%M:%S,")
        + f"{ms % 1000:03d}"
    )
