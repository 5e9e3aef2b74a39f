"""How fast clients have to be, and how much may be kept for those that aren't. Pure: time is passed in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

#: Below this a client is slow, which is held against it only while others wait for what it takes up: 16 KiB/s
#: is a bad mobile connection.
SLOW_BYTES_PER_S = 16 * 1024
#: Nobody is slow before that: what stops for less is a lost packet.
SLOW_AFTER_S = 5.0
#: What a client has just begun to take isn't held against it.
_NEW_S = 0.25
#: What of the slow is cut beside what is above the limit: looking at all takes a while, and shouldn't be due
#: again for the next byte.
_SPARE_SHARE = 8


class Throughput:
    """The rate of bytes over the last SLOW_AFTER_S, or up to twice that."""

    __slots__ = ("_bytes", "_last", "_since", "_start")

    def __init__(self, now: float) -> None:
        self._bytes = 0
        self._since = now
        #: When the time began over which is measured, and the next one; and the bytes by then.
        self._start = self._last = (now, 0)

    def move(self, size: int, now: float) -> None:
        """Count bytes that have moved by this time."""
        self._bytes += size
        if now - self._last[0] >= SLOW_AFTER_S:
            self._start, self._last = self._last, (now, self._bytes)

    def rate(self, now: float) -> float:
        """Return bytes per second."""
        since, moved = self._start
        return (self._bytes - moved) / max(now - since, _NEW_S)

    def age_s(self, now: float) -> float:
        """Return for how long it has been looked at."""
        return now - self._since


class ClientPace:
    """The time that a client has for what it sends, or takes.

    Each byte buys a little of it, at the least rate, and never more than `stall_s` ahead: who was fast can't
    stop for longer than others.
    """

    __slots__ = ("_due_at", "_least_rate", "_stall_s", "_throughput")

    def __init__(self, least_rate: int, stall_s: float, *, now: float) -> None:
        self._least_rate = least_rate
        self._stall_s = stall_s
        self._throughput = Throughput(now)
        self._due_at = now + stall_s

    def move(self, size: int, *, now: float) -> None:
        """Take note of bytes that have come, or have gone."""
        self._throughput.move(size, now)
        self._due_at = min(self._due_at + size / self._least_rate, now + self._stall_s)

    def stood_still(self, for_s: float) -> None:
        """Give a time back in which nothing could be seen to move."""
        self._due_at += for_s

    def is_late(self, now: float) -> bool:
        """Tell whether the client has been behind for too long."""
        return now > self._due_at

    def slowness(self, now: float) -> float | None:
        """Return its bytes per second where it is slow, None where it isn't."""
        if self._throughput.age_s(now) < SLOW_AFTER_S:
            return None
        rate = self._throughput.rate(now)
        return rate if rate < SLOW_BYTES_PER_S else None


@dataclass(slots=True, eq=False)
class ClientBacklog:
    """What is kept for one client; the last two fields are `Unsent`'s."""

    #: Returns how many bytes wait for the client now.
    measure: Callable[[], int]
    #: Drops these bytes, and closes the client's connection.
    cut: Callable[[], object]
    held_bytes: int = 0
    throughput: Throughput = field(init=False)


class Unsent:
    """What one process keeps for clients that don't take it as fast as it comes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        #: The sum over `_held`.
        self.held_bytes = 0
        self._held: dict[ClientBacklog, None] = {}

    def keep(self, one: ClientBacklog, now: float) -> list[ClientBacklog]:
        """Measure what is kept for a client and return whom to cut for it, the slowest first.

        The fastest is cut for nobody: an answer may be larger than the limit.
        """
        self._measure(one, now)
        if self.held_bytes <= self._limit_bytes:
            return []
        for other in list(self._held):
            self._measure(other, now)
        return list(self._excess(now))

    def _measure(self, one: ClientBacklog, now: float) -> None:
        size = one.measure()
        if one not in self._held:
            if not size:
                return
            one.held_bytes = 0
            one.throughput = Throughput(now)
            self._held[one] = None
        one.throughput.move(max(0, one.held_bytes - size), now)
        self.held_bytes += size - one.held_bytes
        one.held_bytes = size
        if not size:
            del self._held[one]

    def _excess(self, now: float) -> Iterator[ClientBacklog]:
        above_bytes = self.held_bytes - self._limit_bytes
        spare_bytes = self._limit_bytes // _SPARE_SHARE if above_bytes > 0 else 0
        rates = sorted(((_rate(one, now), number, one) for number, one in enumerate(self._held)))
        for rate, _, one in rates[:-1]:
            if above_bytes + (spare_bytes if rate < SLOW_BYTES_PER_S else 0) <= 0:
                return
            above_bytes -= one.held_bytes
            yield one


def _rate(one: ClientBacklog, now: float) -> float:
    return float("inf") if one.throughput.age_s(now) < _NEW_S else one.throughput.rate(now)
