"""Numbered messages: each side knows which of the other's have not come. Pure.

A connection that breaks takes along what is on it. What must not be lost so (workers' answers to the broker,
the broker's answers to a gateway) is numbered in a row. The sender keeps it until it is told up to which
serial all have come; the receiver takes messages in their order alone, and asks for those that it missed:
when a later one comes, or when a beat tells of a later one. What the sender doesn't have any more is passed
over: it goes on with a new row.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from torchrelay.shared.wire import messages as m

#: The number of a row is above these bits of a serial, that of a message in the row below them.
ROW_BITS = 32

NumberedT = TypeVar("NumberedT", bound=m.Answered | m.Refused | m.Completed | m.Streamed)
FrameT = TypeVar("FrameT")


@dataclass(slots=True)
class Unheard(Generic[NumberedT, FrameT]):
    """Numbered messages whose receiver has not said that they came, oldest first."""

    limit: int
    limit_bytes: int
    #: The serial of the latest.
    latest: int = 0
    #: Message, frames, and the bytes that it takes.
    _kept: deque[tuple[NumberedT, Sequence[FrameT], int]] = field(default_factory=deque)
    _bytes: int = 0

    @property
    def kept(self) -> list[tuple[NumberedT, Sequence[FrameT]]]:
        """The messages that are kept, with their frames."""
        return [(message, frames) for message, frames, _ in self._kept]

    def next_serial(self) -> int:
        """Number the next message."""
        self.latest += 1
        return self.latest

    def keep(self, message: NumberedT, frames: Sequence[FrameT], size: int) -> list[NumberedT]:
        """Keep a message that goes out; above the limits let go of the oldest ones, and return them."""
        self._kept.append((message, frames, size))
        self._bytes += size
        dropped: list[NumberedT] = []
        while len(self._kept) > self.limit or (self._bytes > self.limit_bytes and len(self._kept) > 1):
            dropped.append(self._drop_oldest())
        return dropped

    def heard(self, serial: int) -> list[NumberedT]:
        """Let go of the messages up to this one, which have come, and return them."""
        dropped: list[NumberedT] = []
        while self._kept and self._kept[0][0].serial <= serial:
            dropped.append(self._drop_oldest())
        return dropped

    def _drop_oldest(self) -> NumberedT:
        message, _, size = self._kept.popleft()
        self._bytes -= size
        return message

    def after(self, serial: int) -> list[tuple[NumberedT, Sequence[FrameT]]]:
        """Return what is kept of the messages after this one, to be sent again."""
        self.heard(serial)
        next_one = max(serial, self.latest >> ROW_BITS << ROW_BITS) + 1
        if self.latest >= next_one and (not self._kept or self._kept[0][0].serial > next_one):
            self._begin_row()
        return self.kept

    def clear(self) -> None:
        """Let go of everything."""
        self._kept.clear()
        self._bytes = 0

    def _begin_row(self) -> None:
        """Number what is kept anew: something before it can't be had any more."""
        self.latest = ((self.latest >> ROW_BITS) + 1) << ROW_BITS
        renumbered = [
            (msgspec.structs.replace(message, serial=self.latest + number), frames, size)
            for number, (message, frames, size) in enumerate(self._kept, start=1)
        ]
        self._kept = deque(renumbered)
        self.latest += len(renumbered)


@dataclass(slots=True)
class InOrder:
    """What has come of the other side's numbered messages."""

    #: Of the message up to which all have come.
    latest: int = 0
    #: Messages after it are to be asked for; whoever asks sets it to False.
    has_missed: bool = False
    #: Messages were passed over that the other side didn't have any more.
    has_skipped: bool = False
    #: After which serial they have been asked for.
    _asked: int = -1

    def takes(self, serial: int) -> bool:
        """Tell whether a message counts: it is the next one. A peer that doesn't number them says 0."""
        if serial == self.latest + 1 or not serial:
            self.latest = serial or self.latest
            return True
        self._see_row(serial)
        if serial == self.latest + 1:
            self.latest = serial
            return True
        if serial > self.latest and self._asked != self.latest:  # others after it are on their way already
            self._ask()
        return False

    def told(self, serial: int) -> None:
        """Take note of the serial up to which the other side had sent when it said so."""
        self._see_row(serial)
        if serial > self.latest:
            self._ask()

    def _ask(self) -> None:
        self.has_missed = True
        self._asked = self.latest

    def _see_row(self, serial: int) -> None:
        if serial >> ROW_BITS > self.latest >> ROW_BITS:
            self.latest = serial >> ROW_BITS << ROW_BITS
            self.has_skipped = True
