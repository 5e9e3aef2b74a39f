"""Who is told of whose memory, and who gets a copy instead."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import zmq

from torchrelay.broker.network import shared_memories
from torchrelay.broker.network.shared_memories import LOOK_S, SharedMemories, Told
from torchrelay.shared.processes.shared_memory import Piece, PieceGone
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.memory_sharing import LENT_FROM_BYTES, MemorySharing

GATEWAY, WORKER, OTHER = b"g", b"w", b"other"
LARGE = b"l" * LENT_FROM_BYTES


@dataclass
class Host:
    """A broker's table, and parts that hear what they are told."""

    memories: SharedMemories = field(default_factory=SharedMemories)
    parts: dict[bytes, MemorySharing] = field(default_factory=dict)
    made: list[MemorySharing] = field(default_factory=list)
    now: float = 0.0

    def join(self, peer: bytes, *, as_gateway: bool) -> m.OfferMemory:
        part = self.parts[peer] = MemorySharing("gateway" if as_gateway else "worker")
        offer = part.offer(1)
        assert offer is not None
        self.made.append(part)
        self.offer(peer, offer)
        return offer

    def offer(self, peer: bytes, offer: m.OfferMemory) -> None:
        self.memories.open(peer, offer)
        self.tell(self.memories.told(0.0, lambda _: True))

    def without(self, gone: bytes) -> list[Told]:
        """Have a second pass, in which a peer isn't there any more; return what is told."""
        self.now += LOOK_S
        return self.memories.told(self.now, lambda peer: peer != gone)

    def tell(self, told: list[Told]) -> None:
        for peer, message in told:
            if isinstance(message, m.OfferMemory):
                opening = self.parts[peer].heard(message)
                assert opening is not None
                self.memories.confirmed(peer, self.parts[peer].opened(message, opening()))
            else:
                self.parts[peer].heard(message)

    def received(self, sender: bytes, data: bytes = LARGE) -> tuple[codec.Frame, ...]:
        """Have a part send data; return the frames that the broker has of it."""
        head, *parts = self.parts[sender].packed(m.Bye(), 1, [self.parts[sender].lend(data)])
        return tuple(self.memories.unpacked(bytes(head), [zmq.Frame(bytes(part)) for part in parts]))


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    host.join(GATEWAY, as_gateway=True)
    host.join(WORKER, as_gateway=False)
    yield host
    for part in host.made:
        part.close()


def test_gateways_and_workers_are_told_of_each_other_and_not_of_their_like(host: Host) -> None:
    host.join(OTHER, as_gateway=False)
    assert host.parts[GATEWAY].reads(WORKER)
    assert host.parts[GATEWAY].reads(OTHER)
    assert host.parts[WORKER].reads(GATEWAY)
    assert not host.parts[WORKER].reads(OTHER)


def test_who_can_read_a_memory_is_told_where_a_part_lies_others_get_a_copy(host: Host) -> None:
    (frame,) = host.received(GATEWAY)
    assert isinstance(frame, Piece)
    sent, lent = host.memories.packed(WORKER, (b"small", frame))
    assert sent == [b"small"]
    assert [one.index for one in lent] == [1]
    assert host.memories.packed(b"on another host", (b"small", frame)) == ([b"small", LARGE], [])


def test_a_part_that_nobody_lends_goes_as_it_is(host: Host) -> None:
    frames = (zmq.Frame(b"x"), b"y")
    assert host.memories.packed(WORKER, frames) == ([*frames], [])


def test_of_a_peer_that_has_gone_others_are_told_and_what_came_of_it_is_still_there(host: Host) -> None:
    (frame,) = host.received(WORKER)
    told = host.without(WORKER)
    assert [peer for peer, _ in told] == [GATEWAY]
    host.tell(told)
    assert not host.parts[GATEWAY].reads(WORKER)
    assert host.memories.packed(GATEWAY, (frame,)) == ([LARGE], [])
    assert host.without(WORKER) == []


def test_what_comes_of_a_peer_that_was_forgotten_has_no_frames(host: Host) -> None:
    host.without(GATEWAY)
    assert host.received(GATEWAY) == ()


def test_a_peer_that_comes_back_by_another_id_is_read_under_that(host: Host) -> None:
    offer = host.parts[WORKER].offer(1)
    assert offer is not None
    host.parts[OTHER] = host.parts[WORKER]
    host.offer(OTHER, offer)
    host.tell(host.without(WORKER))
    (frame,) = host.received(OTHER)
    assert isinstance(frame, Piece)


def test_a_peer_that_offers_another_memory_lends_that(host: Host) -> None:
    host.join(WORKER, as_gateway=False)
    (frame,) = host.received(WORKER)
    sent, lent = host.memories.packed(GATEWAY, (frame,))
    assert (sent, len(lent)) == ([], 1)


def test_more_than_so_many_peers_lend_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memories, "READABLE_LIMIT", 2)
    host.join(OTHER, as_gateway=False)
    assert host.parts[OTHER].lend(LARGE) is LARGE
    host.join(WORKER, as_gateway=False)  # in the place of its own
    assert isinstance(host.parts[WORKER].lend(LARGE), Piece)


def test_what_cannot_be_opened_is_not_confirmed(host: Host) -> None:
    offer = m.OfferMemory("worker", b"\0nobodys", b"m" * 16, 1 << 28)
    host.memories.open(OTHER, offer)
    assert host.memories.told(0.0, lambda _: True) == []
    host.memories.confirmed(OTHER, m.ReadsMemory(b"m" * 16))


def test_who_lends_nothing_is_given_no_places(host: Host) -> None:
    (frame,) = host.received(GATEWAY)
    assert isinstance(frame, Piece)
    host.memories.confirmed(OTHER, m.ReadsMemory(frame.memory.place.mark))
    assert host.memories.packed(OTHER, (frame,)) == ([LARGE], [])


def test_a_copy_of_what_is_not_there_any_more_is_an_error(host: Host) -> None:
    sharing = host.parts[GATEWAY]
    frames = [sharing.lend(LARGE)]
    head, *parts = sharing.packed(m.Bye(), 1, frames)
    received = host.memories.unpacked(bytes(head), [zmq.Frame(bytes(part)) for part in parts])
    frames[0] = b""
    again = sharing.lend(LARGE)
    with pytest.raises(PieceGone):
        host.memories.packed(b"on another host", received)
    assert len(again) == len(LARGE)
