"""A body that a request reads on the event loop, which may have to wait for room."""

import asyncio
from math import inf

from torchrelay.gateway.in_flight_room import IncomingBody, Room
from torchrelay.shared import clock


class BodyReading(IncomingBody):
    """A body that a request reads, which may have to wait for room."""

    __slots__ = ("_loop", "_room", "_told")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, room: Room, most_bytes: int, answer_by: float | None
    ) -> None:
        super().__init__(most_bytes, inf if answer_by is None else answer_by)
        self._loop = loop
        self._room = room
        #: Ends when it need not wait any longer.
        self._told: asyncio.Future[bool] | None = None

    def take(self, size: int) -> bool:
        """Count a piece, or return False where it has to wait.

        Raises ServiceUnavailable where it never could have room.
        """
        if self.held_bytes + size > self.most_bytes:
            raise self._room.full()
        return self._room.grow(self, size)

    async def wait_and_take(self, size: int) -> None:
        """Count a piece once there is room for it. Raises ServiceUnavailable where there is none for long."""
        self._room.wait(self, size, now=clock.monotonic())
        self._told = self._loop.create_future()
        if not await self._told:
            raise self._room.full()

    def tell(self, *, has_room: bool) -> None:
        """Wake the reader up: there is room for its piece, or there was none for too long."""
        if self._told is not None and not self._told.done():
            self._told.set_result(has_room)
