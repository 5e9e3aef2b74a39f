"""A gateway's or worker's part in sharing memory with others of its host: what it lends, what it may read.

It offers its memory to the broker once it is welcomed, and lends once the broker has opened that. Of others
it reads what the broker offers. A part of a message that lies in memory is a `Piece` wherever it goes.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Literal, TypeVar, cast

from torchrelay.shared import clock
from torchrelay.shared.processes.shared_memory import (
    HeldPiece,
    LentMemory,
    Memory,
    MemoryPlace,
    Piece,
    PieceGone,
    Readable,
    open_memory,
)
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

#: Parts from this size on are lent, so that none is sent which the head has no room for. PERF: of 9 kB each
#: way a request takes 15 % less CPU time in all, of 40 kB 40 %, of 150 kB half.
LENT_FROM_BYTES = codec.INLINE_LIMIT_BYTES
#: What each may lend at a time; it takes no memory before it does. More goes by the socket.
LIMIT_BYTES = {"gateway": 1 << 30, "worker": 256 << 20}

#: Memories that one process reads: each takes one of the file descriptors that connections need, too.
READABLE_LIMIT = 128

Frame = Readable | Piece
FrameT = TypeVar("FrameT")


class MemorySharing:
    """What one process lends, and what it may read of others."""

    def __init__(self, lender: Literal["gateway", "worker"]) -> None:
        self._lender: Literal["gateway", "worker"] = lender
        self._own: LentMemory | None = None
        #: Whether the broker can read what we lend.
        self._may_lend = False
        #: Of the broker that has offered what follows.
        self._epoch = 0
        #: What we can read: by its mark, and the peer ids of those whose it is.
        self._readable: dict[bytes, Memory] = {}
        self._owners: dict[bytes, bytes] = {}

    def offer(self, epoch: int) -> m.OfferMemory | None:
        """Return what the broker that has just welcomed us is told; None where nothing can be lent."""
        self.lose()
        if epoch != self._epoch:
            self._epoch = epoch
            self._readable.clear()
            self._owners.clear()
        if self._own is None:
            with suppress(OSError):
                self._own = LentMemory(LIMIT_BYTES[self._lender], until_taken=self._lender == "worker")
        if self._own is None:
            return None
        address, mark = self._own.place
        return m.OfferMemory(self._lender, address, mark, self._own.limit_bytes)

    def lose(self) -> None:
        """Lend nothing until a broker says that it can read it: who is there now need not be the same."""
        self._may_lend = False

    def close(self) -> None:
        """Hand our memory out to nobody any more."""
        if self._own is not None:
            self._own.close()

    def heard(self, message: m.OfMemory) -> Callable[[], Memory] | None:
        """Take in what the broker says about memory.

        Where it offers one, return what opens that, to be called where it may wait, as
        `shared_memory.open_memory` does; what it returns is for `opened`.
        """
        match message:
            case m.OfferMemory(lender, address, mark, size_bytes):
                if len(self._readable) < READABLE_LIMIT or mark in self._readable:
                    place = MemoryPlace(address, mark)
                    return partial(open_memory, place, size_bytes, takes=lender == "worker")
            case m.ReadsMemory(mark):
                self._may_lend = self._own is not None and mark == self._own.place.mark
            case m.MemoryEnds(mark):
                self._readable.pop(mark, None)
                self._owners.pop(mark, None)
        return None

    def opened(self, offer: m.OfferMemory, memory: Memory) -> m.ReadsMemory:
        """Read a memory from now on, and return what the broker is told."""
        self._readable[offer.mark] = memory
        self._owners[offer.mark] = offer.owner
        return m.ReadsMemory(offer.mark)

    def reads(self, peer: bytes) -> bool:
        """Tell whether we read the memory of a peer, so that it is of this host, and reads ours."""
        return peer in self._owners.values()

    def lend(self, data: Frame) -> Frame:
        """Return what goes into a message for data: a piece of our memory, or the data."""
        if isinstance(data, Piece) or (own := self._lends(len(data))) is None:
            return data
        return own.lend(data, clock.monotonic()) or data

    def reserve(self, size: int) -> HeldPiece | None:
        """Return a piece of our memory for so much that is still to come; None where that is not lent."""
        own = self._lends(size)
        return None if own is None else own.reserve(size)

    def _lends(self, size: int) -> LentMemory | None:
        return self._own if self._may_lend and size >= LENT_FROM_BYTES else None

    def look(self) -> None:
        """Free what others have taken; to be called now and then."""
        if self._own is not None:
            self._own.look(clock.monotonic())

    def packed(self, message: m.Message, epoch: int, frames: Sequence[Frame]) -> list[Readable]:
        """Return the parts that go out by the socket."""
        sent, lent = parted(frames, lambda _: self._may_lend, _copied)
        return cast("list[Readable]", message_parts(message, epoch, sent, lent))

    def unpacked(self, head: bytes, frames: list[memoryview]) -> Sequence[Frame]:
        """Return the frames of a message that has come with some. Raises WireError."""
        if not codec.lends(head):
            return frames
        return with_pieces(codec.unpack_lent(frames[-1]), frames[:-1], self._readable)


def parted(
    frames: Sequence[FrameT | Piece], reads: Callable[[bytes], bool], copied: Callable[[Piece], bytes]
) -> tuple[list[FrameT | bytes], list[codec.Lent]]:
    """Return those frames that go by the socket, and where the others lie.

    `reads` tells by its mark whether the receiver reads a memory; else a piece goes as it is `copied`.
    """
    sent: list[FrameT | bytes] = []
    lent: list[codec.Lent] = []
    for index, frame in enumerate(frames):
        if not isinstance(frame, Piece):
            sent.append(frame)
        elif reads(mark := frame.memory.place.mark):
            lent.append(codec.Lent(index, mark, frame.offset, frame.size, frame.stamp))
        else:
            sent.append(copied(frame))
    return sent, lent


def message_parts(
    message: m.Message, epoch: int, sent: Sequence[FrameT], lent: Sequence[codec.Lent]
) -> list[FrameT | bytes]:
    """Return a message's parts: its head, the frames that go by the socket, and where others lie."""
    if not lent:
        return [codec.encode(message, epoch), *sent]
    return [codec.encode(message, epoch, codec.LENDS), *sent, codec.pack_lent(lent)]


def with_pieces(
    lent: Sequence[codec.Lent], sent: Sequence[FrameT], readable: Mapping[bytes, Memory]
) -> list[FrameT | Piece]:
    """Put the frames that are lent among those that came by the socket. Raises WireError."""
    frames: list[FrameT | Piece] = list(sent)
    for one in lent:
        memory = readable.get(one.mark)
        if memory is None or one.index > len(frames):
            raise codec.WireError("a frame lies in memory that can't be read here")
        try:
            frames.insert(one.index, memory.piece(one.offset, one.size, one.stamp))
        except PieceGone:
            raise codec.WireError("a frame lies outside of its memory") from None
    return frames


def _copied(piece: Piece) -> bytes:
    """Return what one of our own pieces holds; nothing where it was taken, so that nobody waits for it."""
    try:
        return bytes(piece.copied())
    except PieceGone:
        return b""
