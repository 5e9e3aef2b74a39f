"""What a new job finds before it, and whether it can be answered in time. Pure functions over numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

#: Part of a batch's time by which a job must come before its limit: under overload each one that is let in
#: is let in at the first moment at which it can just be done, and batches don't all take the same time.
MARGIN = 0.25


@dataclass(slots=True, frozen=True, kw_only=True)
class QueueLoad:
    """The jobs of a version that wait, and its workers; a place is where one batch runs at a time."""

    depth: int
    #: Jobs that a place takes together.
    batch_size: int
    #: When each place is free, in seconds from now, the earliest first; 0.0 for those that are.
    free_in_s: Sequence[float]
    #: Average seconds a batch takes; 0 before the first.
    service_s: float

    @property
    def begins_in_s(self) -> float:
        """How many seconds a new job waits for a place, if batches take as long as on average.

        No time at all where nothing is known: without any place, and before the first batch.
        """
        if not self.free_in_s:
            return 0.0
        rounds, place = divmod(self.depth // self.batch_size, len(self.free_in_s))
        # A place is filled again and again: none counts as free later than the first is for the second time.
        free_in_s = min(self.free_in_s[place], self.free_in_s[0] + self.service_s)
        return free_in_s + rounds * self.service_s

    def comes_too_late(self, left_s: float, *, must_end: bool) -> bool:
        """Tell whether a new job can't begin within `left_s`, or with `must_end` not end.

        One that could go to a worker at once never comes too late: the worker may be faster than it was.
        """
        begins_in_s = self.begins_in_s
        if begins_in_s == 0:
            return False
        return begins_in_s + (1 + MARGIN) * self.service_s * must_end > left_s


def latest_begin_s(
    *, depth: int, batch_size: int, workers: int, fewest_leases: int, service_s: float
) -> float:
    """Return a time, in seconds from now, by which a new job begins at the latest; see `begins_in_s`.

    It takes no look at each worker: of so many, one has so few leases, each of a place of its own or before
    the next, and no lease takes longer than on average.
    """
    if not workers:
        return 0.0
    return (fewest_leases + 1 + depth // batch_size // workers) * service_s


def is_hopeless(*, left_s: float, service_s: float, others: int) -> bool:
    """Tell whether a job whose turn has come is refused: a batch takes longer than its client waits.

    Only while others wait that a worker could run instead: an idle one may as well try.
    """
    return others > 0 and service_s > left_s


def backlog_s(*, depth: int, capacity: int, service_s: float) -> float:
    """Return how many seconds so many waiting jobs take; 0 where that isn't known."""
    return depth / capacity * service_s if capacity else 0.0


def left_of_batch_s(ran_s: float, service_s: float) -> float:
    """Return how many seconds a batch that has run for `ran_s` still takes; a late one may end at once."""
    return max(0.0, service_s - ran_s)
