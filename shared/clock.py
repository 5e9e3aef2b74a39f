"""Clocks; the one place that reads them."""

import time
from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf, nextafter

#: Seconds that only grow, for every timeout and duration inside one process.
monotonic = time.monotonic


def wall_ms() -> int:
    """Read the wall clock in milliseconds since 1970, for times that people read."""
    return time.time_ns() // 1_000_000


class ListeningClock:
    """Seconds in which a process listened: it stands still while the process does.

    A process that was stopped, swapped out or whose host slept has heard nobody meanwhile, so that this
    time proves nothing about anybody else. What is measured against silence is measured by this clock.
    """

    #: Breaks that are remembered, for turning its times into real ones.
    BREAKS_LIMIT = 100

    def __init__(self, now: float, turn_limit_s: float) -> None:
        """Agree with real time at `now`; a turn counts for up to `turn_limit_s`, whatever it took."""
        self._turn_limit_s = turn_limit_s
        self._turned_at = now
        #: How far it is behind real time.
        self._behind_s = 0.0
        #: When it stood still, by itself, and how far behind it was until then.
        self._breaks: list[tuple[float, float]] = []
        #: What the latest turn took beyond the limit.
        self.stood_still_s = 0.0

    def turn(self, now: float) -> float:
        """Begin a turn of the process's loop at a real time; return this clock's."""
        stood_still_s = now - self._turned_at - self._turn_limit_s
        if stood_still_s > 0:
            self._breaks.append((self._turned_at - self._behind_s, self._behind_s))
            del self._breaks[: -self.BREAKS_LIMIT]
            self._behind_s += stood_still_s
            self.stood_still_s = stood_still_s
        else:
            self.stood_still_s = 0.0
        self._turned_at = now
        return now - self._behind_s

    def wake(self, at: float) -> float:
        """Return a real time from which on this clock will show `at`, if it doesn't stand still meanwhile."""
        # Without the next float up, rounding could have a turn come a hair too early, again and again.
        return nextafter(at + self._behind_s, inf) if self._behind_s else at

    def real(self, at: float) -> float:
        """Return the real time of one of this clock's, past or to come."""
        if not self._breaks or at > self._breaks[-1][0]:
            return at + self._behind_s
        return at + self._breaks[bisect_left(self._breaks, at, key=lambda one: one[0])][1]


def wall_of(now: float, wall_ms: int) -> Callable[[float], int]:
    """Return what turns monotonic seconds into milliseconds since 1970, by two readings of one moment."""
    offset_ms = wall_ms - now * 1000
    return lambda at: int(at * 1000 + offset_ms)


def iso(ms: int) -> str:
    """Write a wall clock time as TorchServe does: `2026-01-31T12:00:00.000Z`, in UTC."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def local_iso(ms: int) -> str:
    """Write a wall clock time as TorchServe's log does: `2026-01-31T12:00:00,000`, in the host's zone."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC).astimezone():%Y-%m-%dT%H:%M:%S},{ms % 1000:03d}"
