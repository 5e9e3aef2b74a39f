"""When the jobs whose clients have a limit must be looked at. Pure."""

import heapq
from collections.abc import Iterator
from math import inf

from torchrelay.broker.jobs.queues import Job


class Deadlines:
    """Jobs by a point in time; only their names are kept, so that one that has ended costs little."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, bytes, int]] = []

    @property
    def next(self) -> float:
        """When the next job must be looked at, in real time; infinity without one."""
        return self._heap[0][0] if self._heap else inf

    def add(self, at: float, job: Job) -> None:
        """Have a job looked at at a time."""
        heapq.heappush(self._heap, (at, job.gateway, job.number))

    def due(self, now: float) -> Iterator[tuple[bytes, int]]:
        """Take out what is due: gateway and number of jobs that may have ended long ago."""
        while self.next <= now:
            _, gateway, number = heapq.heappop(self._heap)
            yield gateway, number
