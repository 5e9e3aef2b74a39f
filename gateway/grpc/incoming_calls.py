"""The calls of one process: how many there may be, and for how long one may keep its request back. Pure.

grpc doesn't tell how much of a message has come. So a call whose request doesn't come is ended after a while,
and sooner where others want its place, or where the process holds too much memory, of which it may be the
cause.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

#: A request may take so long to come while its place, or memory, is wanted for others.
SHORT_WAIT_S = 3.0
#: Else it may come as slowly as a bad mobile connection sends it, once it had so long to begin.
BEGIN_S = 60.0
LEAST_BYTES_PER_S = 16 * 1024


@dataclass(slots=True, eq=False)
class IncomingCall:
    """A call whose request is waited for."""

    #: Ends the waiting.
    cut: Callable[[], object]
    since: float
    #: Whether it is a stream, on which nothing need come.
    is_stream: bool = False
    #: Why it was ended.
    reason: str = ""


class IncomingCalls:
    """All calls of one process."""

    def __init__(self, limit_calls: int, limit_memory_bytes: int, largest_bytes: int) -> None:
        self._limit_calls = limit_calls
        self._limit_memory_bytes = limit_memory_bytes
        self._patience_s = BEGIN_S + largest_bytes / LEAST_BYTES_PER_S
        #: Those that are being answered as well.
        self.calls = 0
        #: Whose request is still to come, oldest first.
        self._waiting: dict[IncomingCall, None] = {}
        #: Of the memory that was found last, what is there without any call.
        self._least_memory_bytes = inf

    def has_room(self, now: float) -> bool:
        """Tell whether all calls may be there; if not, end those that have their place for nothing."""
        if self.calls <= self._limit_calls:
            return True
        self._end(now, SHORT_WAIT_S, "others need its place", with_streams=True)
        return False

    def wait(self, call: IncomingCall) -> None:
        """Take note of a call whose request is waited for."""
        self._waiting[call] = None

    def arrived(self, call: IncomingCall) -> None:
        """Take note that it has come, or won't."""
        del self._waiting[call]

    def sweep(self, now: float, memory_bytes: int) -> None:
        """End the calls that take too long; call it a few times a second with what the process holds."""
        self._end(now, self._patience_s, "it took too long to come")
        self._least_memory_bytes = min(self._least_memory_bytes, memory_bytes)
        if memory_bytes - self._least_memory_bytes > self._limit_memory_bytes:
            self._end(now, SHORT_WAIT_S, "too much is being sent", with_streams=True)

    def _end(self, now: float, after_s: float, reason: str, *, with_streams: bool = False) -> None:
        for call in list(self._waiting):
            if now - call.since < after_s:
                break
            if not call.reason and (with_streams or not call.is_stream):
                call.reason = reason
                call.cut()
