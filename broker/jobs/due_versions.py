"""When to look at versions though nothing happens to them. Pure."""

from heapq import heapify, heappop, heappush
from math import inf

from torchrelay.broker.models.catalog import Key

#: So many entries more than versions are not worth looking through for those that hold no longer.
TIDY_LIMIT = 64


class DueVersions:
    """One time for each version that has one. It takes as long however many versions there are."""

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        #: Has all of those, and some that hold no longer; never one of these first.
        self._heap: list[tuple[float, Key]] = []
        #: The first of all times; infinity without one. PERF: read each turn, so no property.
        self.next = inf

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: Key, at: float) -> None:
        """Have a version looked at then, instead of when it was to be before."""
        self._due[key] = at
        heappush(self._heap, (at, key))
        if len(self._heap) > 2 * len(self._due) + TIDY_LIMIT:
            self._heap = [(at, key) for key, at in self._due.items()]
            heapify(self._heap)
        self._see_next()

    def remove(self, key: Key) -> None:
        """Let a version have no time of its own."""
        if self._due.pop(key, None) is not None:
            self._see_next()

    def take(self, now: float) -> list[Key]:
        """Remove and return the versions that are due."""
        due: list[Key] = []
        while self.next <= now:
            _, key = heappop(self._heap)
            del self._due[key]
            due.append(key)
            self._see_next()
        return due

    def _see_next(self) -> None:
        heap, due = self._heap, self._due
        while heap and due.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        self.next = heap[0][0] if heap else inf
