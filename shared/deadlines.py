"""How long clients wait: the header by which they say it, when to end what they wait for, when to try again.

Pure: times come in as arguments.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import ceil, inf
from typing import Generic, TypeVar

#: The request header by which a client says how many milliseconds it waits for its answer.
TIMEOUT_HEADER = "x-request-timeout-ms"
#: The longest that it may say, a day: nobody waits longer, and all parts can count so far.
TIMEOUT_LIMIT_MS = 86_400_000
#: What `Retry-After` says at most: what frees places may change within a minute, as by another worker.
RETRY_AFTER_LIMIT_S = 60
#: Fewer entries than this are not worth looking through for those that have ended.
TIDY_LIMIT = 1024

KeyT = TypeVar("KeyT", int, tuple[bytes, int])


class Deadlines(Generic[KeyT]):
    """When to end what has not ended by itself; `is_open` tells of a key whether it has not.

    An entry costs nothing when what it stands for ends; what has ended never makes up more than half of
    those above TIDY_LIMIT, however far off its deadline is.
    """

    def __init__(self, is_open: Callable[[KeyT], bool]) -> None:
        self._is_open: Callable[[KeyT], bool] = is_open
        self._heap: list[tuple[float, KeyT]] = []
        self._tidy_at = TIDY_LIMIT
        #: When the next entry is due; infinity without one. PERF: read each turn, so no property.
        self.next = inf

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: float, key: KeyT) -> None:
        """Have a key taken at this time."""
        heappush(self._heap, (at, key))
        if len(self._heap) >= self._tidy_at:
            self._heap = [entry for entry in self._heap if self._is_open(entry[1])]
            heapify(self._heap)
            self._tidy_at = max(TIDY_LIMIT, 2 * len(self._heap))
        self._see_next()

    def take_due(self, now: float) -> list[KeyT]:
        """Remove and return the keys that are due and open."""
        due: list[KeyT] = []
        while self._heap and self._heap[0][0] <= now:
            _, key = heappop(self._heap)
            if self._is_open(key):
                due.append(key)
        self._see_next()
        return due

    def _see_next(self) -> None:
        self.next = self._heap[0][0] if self._heap else inf


def retry_after_s(backlog_s: float) -> int:
    """Return the whole seconds after which to try again, where what waits now takes `backlog_s`."""
    return ceil(min(max(backlog_s, 1.0), RETRY_AFTER_LIMIT_S))
