"""Room for what is in flight: how many bytes this process holds, and who may add to them. Pure.

Bodies that come in pieces count with what has come of them, not with what they may become: who announces
much and sends nothing takes nothing from the others. Two rules let all of them come to an end all the same.
A body takes a piece only while all of its rest would find room, so that the one that took a piece last can
always be read to its end. And one that has nothing yet stands behind those that wait.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

from torchrelay.shared import errors

#: Kept from bodies that come in pieces: beside large ones, requests that come whole still find room.
RESERVE_BYTES = 32 << 20
#: How long a body waits for room, which is there as soon as others have had their answers.
WAIT_LIMIT_S = 30.0
#: When it has waited so long, those that hold room and come slowly give it up.
LONG_WAIT_S = 3.0


@dataclass(slots=True, eq=False)
class IncomingBody:
    """A body that is being read; its fields are the room's."""

    #: What it may become.
    most_bytes: int
    #: When its client gives up.
    answer_by: float = inf
    held_bytes: int = 0
    #: What it waits to take.
    wanted_bytes: int = 0
    waits_since: float = 0.0


class Room:
    """The bytes of one process: of jobs without an answer, and of bodies that are being read."""

    def __init__(self, limit_bytes: int, retry_after_s: Callable[[], int] = lambda: 1) -> None:
        """Make room for so much; `retry_after_s` tells when there may be some again."""
        self._limit_bytes = limit_bytes
        self._retry_after_s = retry_after_s
        self.held_bytes = 0
        #: Bodies that wait, in the order in which they began to.
        self._waiting: dict[IncomingBody, None] = {}

    @property
    def largest_body_bytes(self) -> int:
        """What a body can have at most if it comes in pieces."""
        return self._limit_bytes - min(RESERVE_BYTES, self._limit_bytes // 8)

    @property
    def waiting(self) -> int:
        """How many bodies wait."""
        return len(self._waiting)

    def waiting_long(self, now: float) -> int:
        """Count the bodies that have waited for LONG_WAIT_S."""
        return sum(now - body.waits_since >= LONG_WAIT_S for body in self._waiting)

    def take(self, size: int) -> None:
        """Take in something whole. Raises ServiceUnavailable where there is no room for it."""
        if self.held_bytes + size > self._limit_bytes:
            raise self.full()
        self.held_bytes += size

    def give_back(self, size: int) -> None:
        """Count something no longer that was taken in whole."""
        self.held_bytes -= size

    def grow(self, body: IncomingBody, size: int) -> bool:
        """Take in a piece of a body, or none of it where its rest would find no room."""
        if (self._waiting and not body.held_bytes) or not self._fits(body):
            return False
        self._add(body, size)
        return True

    def wait(self, body: IncomingBody, size: int, *, now: float) -> None:
        """Have a body wait until `settled` names it."""
        body.wanted_bytes, body.waits_since = size, now
        self._waiting[body] = None

    def settled(self, now: float) -> Iterator[tuple[IncomingBody, bool]]:
        """Yield the bodies that wait no longer: those that have taken their piece, and those that can't."""
        is_row_open = True
        for body in list(self._waiting):
            if (is_row_open or body.held_bytes) and self._fits(body):
                del self._waiting[body]
                self._add(body, body.wanted_bytes)
                yield body, True
            elif now - body.waits_since >= WAIT_LIMIT_S or now >= body.answer_by:
                del self._waiting[body]
                yield body, False
            else:
                is_row_open = False

    def close(self, body: IncomingBody) -> None:
        """Count a body no longer: its job counts from here on."""
        self._waiting.pop(body, None)
        self.held_bytes -= body.held_bytes
        body.held_bytes = 0

    def full(self) -> errors.ServiceUnavailable:
        """Return the error that in_flight_limit_bytes is reached."""
        return errors.ServiceUnavailable(
            "The gateway is busy.",
            f"as much is in flight as in_flight_limit_bytes allows ({self._limit_bytes}); try again later",
            retry_after_s=self._retry_after_s(),
        )

    def _fits(self, body: IncomingBody) -> bool:
        return body.most_bytes - body.held_bytes <= self.largest_body_bytes - self.held_bytes

    def _add(self, body: IncomingBody, size: int) -> None:
        body.held_bytes += size
        self.held_bytes += size
