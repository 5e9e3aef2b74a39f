"""How fast clients have to be, and how much may be kept for those that aren't. Pure: time is passed in."""

from collections.abc import Iterator

#: Below this a client is slow, which is held against it only while others wait for what it takes up: 16 KiB/s
#: is a bad mobile connection.
SLOW_BYTES_PER_S = 16 * 1024
#: Nobody is slow before that: what stops for less is a lost packet.
SLOW_AFTER_S = 5.0
#: What a client has just begun to take isn't held against it.
_NEW_S = 0.25


class Pace:
    """The time that a client has for what it sends, or takes.

    Each byte buys a little of it, at the least rate, and never more than `stall_s` ahead: who was fast can't
    stop for longer than others.
    """

    __slots__ = ("_due_at", "_least_rate", "_moved_bytes", "_since", "_stall_s")

    def __init__(self, least_rate: int, stall_s: float, *, now: float) -> None:
        self._least_rate = least_rate
        self._stall_s = stall_s
        self._since = now
        self._moved_bytes = 0
        self._due_at = now + stall_s

    def move(self, size: int, *, now: float) -> None:
        """Take note of bytes that have come, or have gone."""
        self._moved_bytes += size
        self._due_at = min(self._due_at + size / self._least_rate, now + self._stall_s)

    def is_late(self, now: float) -> bool:
        """Tell whether the client has fallen behind for too long."""
        return now > self._due_at

    def slowness(self, now: float) -> float | None:
        """Return its bytes per second where it is slow, None where it isn't."""
        age_s = now - self._since
        if age_s < SLOW_AFTER_S or self._moved_bytes > SLOW_BYTES_PER_S * age_s:
            return None
        return self._moved_bytes / age_s


class Held:
    """What is kept for one client; its attributes are `Unsent`'s."""

    held_bytes = 0
    taken_bytes = 0
    since = 0.0

    def measure(self) -> int:
        """Return how many bytes are kept now."""
        raise NotImplementedError

    def cut(self) -> None:
        """Let go of them, and of the client."""
        raise NotImplementedError


class Unsent:
    """What one process keeps for clients that don't take it as fast as it comes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        #: The sum over `_held`.
        self.held_bytes = 0
        self._held: dict[Held, None] = {}

    def keep(self, one: Held, now: float) -> list[Held]:
        """Measure what is kept for a client and return whom to cut for it, the slowest first.

        The fastest is cut for nobody: an answer may be larger than the limit.
        """
        self._measure(one, now)
        if self.held_bytes <= self._limit_bytes:
            return []
        for other in list(self._held):
            self._measure(other, now)
        return list(self._excess(now))

    def _measure(self, one: Held, now: float) -> None:
        size = one.measure()
        if one not in self._held:
            if not size:
                return
            one.held_bytes = one.taken_bytes = 0
            one.since = now
            self._held[one] = None
        one.taken_bytes += max(0, one.held_bytes - size)
        self.held_bytes += size - one.held_bytes
        one.held_bytes = size
        if not size:
            del self._held[one]

    def _excess(self, now: float) -> Iterator[Held]:
        above_bytes = self.held_bytes - self._limit_bytes
        for one in sorted(self._held, key=lambda one: _rate(one, now))[:-1]:
            if above_bytes <= 0:
                return
            above_bytes -= one.held_bytes
            yield one


def _rate(one: Held, now: float) -> float:
    age_s = now - one.since
    return float("inf") if age_s < _NEW_S else one.taken_bytes / age_s
