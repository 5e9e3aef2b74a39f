"""Memory that gateways and workers of the broker's host lend: whose there is, and who can read it.

The broker tells workers of gateways' memory and gateways of workers', and passes a part of a message on as
the place where it lies to whoever has said that it can read that; others get a copy.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

import msgspec

from torchrelay.shared.processes.shared_memory import Memory, MemoryPlace, NoSuchMemory, open_memory
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame
from torchrelay.shared.wire.memory_sharing import READABLE_LIMIT, parted, with_pieces

#: How often it looks who isn't there any more.
LOOK_S = 1.0

#: What a peer is to be told.
Told = tuple[bytes, m.OfMemory]


@dataclass(eq=False)
class _Lender:
    """A peer that lends, its memory, what others are told of it, and the peers that can read it."""

    peer: bytes
    memory: Memory
    offer: m.OfferMemory
    readers: set[bytes] = field(default_factory=set)


class SharedMemories:
    """Who lends memory, and who reads whose."""

    def __init__(self) -> None:
        self._by_peer: dict[bytes, _Lender] = {}
        self._by_mark: dict[bytes, _Lender] = {}
        #: What threads have opened.
        self._opened: SimpleQueue[tuple[bytes, m.OfferMemory, Memory | None]] = SimpleQueue()
        self._look_at = 0.0

    def open(self, peer: bytes, offer: m.OfferMemory) -> None:
        """Open a memory that a peer offers: in a thread, since that may wait; `told` takes it in."""
        memory = None
        known = self._by_peer.get(peer)
        is_known = known is not None and known.offer.mark == offer.mark
        if not is_known and (known is not None or len(self._by_peer) < READABLE_LIMIT):
            with suppress(NoSuchMemory):
                memory = open_memory(MemoryPlace(offer.address, offer.mark), offer.size_bytes, takes=False)
        self._opened.put((peer, offer, memory))

    def told(self, now: float, is_known: Callable[[bytes], bool]) -> list[Told]:
        """Take in what was opened, forget peers that have gone, and return what others are told."""
        told: list[Told] = []
        while not self._opened.empty():
            told += self._take(*self._opened.get_nowait())
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            for lender in [one for peer, one in self._by_peer.items() if not is_known(peer)]:
                told += self._forget(lender)
        return told

    def _take(self, peer: bytes, offer: m.OfferMemory, memory: Memory | None) -> list[Told]:
        told: list[Told] = []
        lender = self._by_peer.get(peer)
        if memory is not None:
            if lender is not None:
                told = self._forget(lender)
            lender = _Lender(peer, memory, msgspec.structs.replace(offer, owner=peer))
            self._by_peer[peer] = self._by_mark[offer.mark] = lender
        if lender is None or lender.offer.mark != offer.mark:
            return told
        told.append((peer, m.ReadsMemory(offer.mark)))
        for other in self._by_peer.values():
            if other.offer.lender != offer.lender:
                told += [(other.peer, lender.offer), (peer, other.offer)]
        return told

    def confirmed(self, peer: bytes, message: m.ReadsMemory) -> None:
        """Take note that a peer can read a memory."""
        if (lender := self._by_mark.get(message.mark)) and peer in self._by_peer:
            lender.readers.add(peer)

    def _forget(self, gone: _Lender) -> list[Told]:
        """Let go of a memory; whatever is on its way from there keeps it until it has arrived."""
        mark = gone.memory.place.mark
        del self._by_peer[gone.peer]
        if self._by_mark[mark] is gone:
            del self._by_mark[mark]
        for lender in self._by_peer.values():
            lender.readers.discard(gone.peer)
        return [(reader, m.MemoryEnds(mark)) for reader in gone.readers if reader in self._by_peer]

    def unpacked(self, head: bytes, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Return the frames of a message that has come with some; none if a memory of theirs isn't known.

        The core knows its sender no more then, or finds that frames are missing. Raises WireError.
        """
        if not codec.lends(head):
            return frames
        lent = codec.unpack_lent(codec.payload(codec.opened(frames[-1])))
        if any(one.mark not in self._by_mark for one in lent):
            return ()
        return with_pieces(lent, frames[:-1], {one.mark: self._by_mark[one.mark].memory for one in lent})

    def packed(self, peer: bytes, frames: Sequence[Frame]) -> tuple[list[Frame], list[codec.Lent]]:
        """Return those frames that go to a peer by the socket, and where it finds the others.

        Raises PieceGone where one has to be copied that isn't there any more.
        """
        return parted(frames, partial(self._reads, peer), lambda piece: bytes(piece.copied()))

    def _reads(self, peer: bytes, mark: bytes) -> bool:
        lender = self._by_mark.get(mark)
        return lender is not None and peer in lender.readers
