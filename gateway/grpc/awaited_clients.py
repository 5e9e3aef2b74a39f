"""The calls of one process: how many there may be, and how long clients may keep requests and answers. Pure.

grpc doesn't tell how much of a message has come or gone. So a call whose request doesn't come is ended
after a while, and sooner where others want its place, or where the process holds too much memory, of
which it may be the cause. A call whose answer isn't taken can't be ended: grpc would send what it has
first. Where too much is kept for such clients no more calls are taken, and in the end the process has to
be replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

#: A request may take so long to come while its call's place, or memory, is wanted for others.
SHORT_WAIT_S = 3.0
#: Else a message may be as slow as a bad mobile connection, once it had so long to begin.
BEGIN_S = 60.0
LEAST_BYTES_PER_S = 16 * 1024


@dataclass(slots=True, eq=False)
class AwaitedClient:
    """A client whose request is waited for."""

    #: Ends the waiting.
    cut: Callable[[], object]
    since: float
    #: Whether it is waited for on a stream, on which nothing need come.
    is_stream: bool = False
    #: Why it was ended.
    reason: str = ""


@dataclass(slots=True, eq=False)
class UnsentAnswer:
    """An answer that a client has not taken yet."""

    size: int
    since: float


class AwaitedClients:
    """All calls of one process."""

    def __init__(
        self, limit_calls: int, limit_memory_bytes: int, limit_unsent_bytes: int, largest_bytes: int
    ) -> None:
        self._limit_calls = limit_calls
        self._limit_memory_bytes = limit_memory_bytes
        self._limit_unsent_bytes = limit_unsent_bytes
        self._largest_bytes = largest_bytes
        #: Those that are being answered as well.
        self.calls = 0
        #: Of the answers below.
        self.unsent_bytes = 0
        #: Those whose requests are waited for, oldest first.
        self._waiting: dict[AwaitedClient, None] = {}
        #: Oldest first.
        self._unsent: dict[UnsentAnswer, None] = {}
        #: Of the memory that was found, what is there without any call.
        self._least_memory_bytes = inf

    def has_room(self, now: float) -> bool:
        """Tell whether all calls may be there; if not, end those that have their place for nothing."""
        if self.unsent_bytes > self._limit_unsent_bytes:
            return False
        if self.calls <= self._limit_calls:
            return True
        self._end(now, SHORT_WAIT_S, "others need its place", with_streams=True)
        return False

    def wait_for(self, client: AwaitedClient) -> None:
        """Take note of a client whose request is waited for."""
        self._waiting[client] = None

    def waits_no_more(self, client: AwaitedClient) -> None:
        """Take note that it has come, or won't."""
        del self._waiting[client]

    def send(self, answer: UnsentAnswer) -> None:
        """Take note of an answer that goes out."""
        self._unsent[answer] = None
        self.unsent_bytes += answer.size

    def sent(self, answer: UnsentAnswer) -> None:
        """Take note that it has gone, or won't."""
        del self._unsent[answer]
        self.unsent_bytes -= answer.size

    def sweep(self, now: float, memory_bytes: int) -> None:
        """End the calls that take too long; call it a few times a second with what the process holds."""
        self._end(now, _patience_s(self._largest_bytes), "it took too long to come")
        self._least_memory_bytes = min(self._least_memory_bytes, memory_bytes)
        if memory_bytes - self._least_memory_bytes > self._limit_memory_bytes:
            self._end(now, SHORT_WAIT_S, "too much memory is taken up", with_streams=True)

    def is_stuck(self, now: float) -> bool:
        """Tell whether no call can be taken any more because clients don't take their answers."""
        if self.unsent_bytes <= self._limit_unsent_bytes:
            return False
        oldest = next(iter(self._unsent))
        return now - oldest.since >= _patience_s(oldest.size)

    def _end(self, now: float, after_s: float, reason: str, *, with_streams: bool = False) -> None:
        for client in list(self._waiting):
            if now - client.since < after_s:
                break
            if not client.reason and (with_streams or not client.is_stream):
                client.reason = reason
                client.cut()


def _patience_s(size: int) -> float:
    return BEGIN_S + size / LEAST_BYTES_PER_S
