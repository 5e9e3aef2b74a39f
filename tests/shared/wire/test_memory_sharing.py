"""What a gateway and a worker tell each other of their memory, and what then goes by the socket."""

from collections.abc import Iterator
from contextlib import closing, suppress

import msgspec
import pytest

from torchrelay.shared.processes.shared_memory import NoSuchMemory, Piece
from torchrelay.shared.wire import codec, memory_sharing
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.memory_sharing import LENT_FROM_BYTES, Frame, MemorySharing

LARGE = b"l" * LENT_FROM_BYTES
SMALL = b"s" * (LENT_FROM_BYTES - 1)


@pytest.fixture
def gateway() -> Iterator[MemorySharing]:
    with closing(welcomed(MemorySharing("gateway"))) as part:
        yield part


@pytest.fixture
def worker() -> Iterator[MemorySharing]:
    with closing(welcomed(MemorySharing("worker"))) as part:
        yield part


def welcomed(part: MemorySharing, epoch: int = 1) -> MemorySharing:
    assert part.offer(epoch) is not None
    return part


def introduce(
    one: MemorySharing, other: MemorySharing, epoch: int = 1, owner: bytes = b"one"
) -> m.ReadsMemory:
    """Have one lend and the other read, as by a broker that passes on what they say."""
    offer = one.offer(epoch)
    assert offer is not None
    reads = read(other, msgspec.structs.replace(offer, owner=owner))
    assert reads is not None
    one.heard(reads)
    return reads


def read(part: MemorySharing, offer: m.OfferMemory) -> m.ReadsMemory | None:
    opening = part.heard(offer)
    if opening is None:
        return None
    with suppress(NoSuchMemory):
        return part.opened(offer, opening())
    return None


def crossed(sender: MemorySharing, receiver: MemorySharing, frames: list[Frame]) -> list[object]:
    """Return what is received for frames, as bytes."""
    head, *parts = sender.packed(m.Bye(), 1, frames)
    assert codec.decode(bytes(head)) == (m.Bye(), 1)
    received = receiver.unpacked(bytes(head), [memoryview(part) for part in parts])
    return [bytes(codec.payload(frame)) for frame in received]


def test_what_is_large_is_lent_once_the_other_side_can_read_it(
    gateway: MemorySharing, worker: MemorySharing
) -> None:
    assert gateway.lend(LARGE) is LARGE
    introduce(gateway, worker)
    assert isinstance(gateway.lend(LARGE), Piece)
    assert gateway.lend(SMALL) is SMALL


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 0), (1, 1), (1, 0, 1, 0), (0, 1, 1, 0, 0)])
def test_lent_frames_arrive_in_their_places_among_others(
    gateway: MemorySharing, worker: MemorySharing, order: tuple[int, ...]
) -> None:
    introduce(gateway, worker)
    sent = [bytes([97 + number]) * (len(LARGE) if large else 9) for number, large in enumerate(order)]
    frames = [gateway.lend(data) for data in sent]
    assert crossed(gateway, worker, frames) == sent
    parts = gateway.packed(m.Bye(), 1, frames)
    assert sum(map(len, parts)) < 4096


def test_to_a_broker_that_has_not_said_that_it_reads_it_the_bytes_go_by_the_socket(
    gateway: MemorySharing, worker: MemorySharing
) -> None:
    introduce(gateway, worker)
    piece = gateway.lend(LARGE)
    gateway.lose()
    assert gateway.packed(m.Bye(), 1, [piece]) == [codec.encode(m.Bye(), 1), LARGE]
    assert gateway.lend(LARGE) is LARGE


def test_it_lends_again_to_the_next_broker_and_reads_only_what_that_offers(
    gateway: MemorySharing, worker: MemorySharing
) -> None:
    introduce(worker, gateway, owner=b"w")
    assert gateway.reads(b"w")
    assert not gateway.reads(b"another")
    piece = worker.lend(LARGE)
    gateway.offer(1)  # the same broker's Welcome, said twice
    assert crossed(worker, gateway, [piece]) == [LARGE]
    gateway.offer(2)
    assert not gateway.reads(b"w")
    with pytest.raises(codec.WireError):
        crossed(worker, gateway, [piece])


def test_memory_that_has_ended_is_read_no_more_but_what_came_before_is(
    gateway: MemorySharing, worker: MemorySharing
) -> None:
    mark = introduce(worker, gateway).mark
    head, *parts = worker.packed(m.Bye(), 1, [worker.lend(LARGE)])
    received = gateway.unpacked(bytes(head), [memoryview(part) for part in parts])
    gateway.heard(m.MemoryEnds(mark))
    assert [bytes(codec.payload(frame)) for frame in received] == [LARGE]
    with pytest.raises(codec.WireError):
        crossed(worker, gateway, [worker.lend(LARGE)])


def test_a_workers_memory_is_free_when_its_gateway_has_copied_it_a_gateways_when_that_says_so(
    gateway: MemorySharing, worker: MemorySharing
) -> None:
    introduce(worker, gateway)
    introduce(gateway, worker)
    offsets = set()
    for _ in range(3):
        answer = worker.lend(LARGE)
        assert isinstance(answer, Piece)
        assert crossed(worker, gateway, [answer]) == [LARGE]
        offsets.add(answer.offset)
    assert len(offsets) == 1
    request = gateway.lend(LARGE)
    assert isinstance(request, Piece)
    assert crossed(gateway, worker, [request]) == [LARGE]
    assert crossed(gateway, worker, [request]) == [LARGE]  # of a job that is tried again


def test_what_waited_for_too_long_is_an_error(gateway: MemorySharing, worker: MemorySharing) -> None:
    introduce(gateway, worker)
    frames = [gateway.lend(LARGE)]
    head, *parts = gateway.packed(m.Bye(), 1, frames)
    received = worker.unpacked(bytes(head), [memoryview(part) for part in parts])
    frames.clear()
    frames.append(gateway.lend(b"other" * LENT_FROM_BYTES))
    frames.append(gateway.lend(b"o" * len(LARGE)))
    with pytest.raises(codec.WireError):
        codec.payload(received[0])


def test_an_offer_that_cannot_be_read_is_not_answered(gateway: MemorySharing) -> None:
    for address in (b"\0torchrelay-nobodys", b"", b"/tmp/file", b"\0" * 200):
        assert read(gateway, m.OfferMemory("worker", address, b"m" * 16, 1 << 28)) is None


def test_it_reads_so_many_memories_and_no_more(
    gateway: MemorySharing, worker: MemorySharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_sharing, "READABLE_LIMIT", 1)
    introduce(worker, gateway)
    introduce(worker, gateway)
    with closing(MemorySharing("worker")) as another:
        offer = another.offer(1)
        assert offer is not None
        assert read(gateway, offer) is None


def test_somebody_elses_confirmation_counts_for_nothing(gateway: MemorySharing) -> None:
    assert gateway.offer(1) is not None
    gateway.heard(m.ReadsMemory(b"m" * 16))
    assert gateway.lend(LARGE) is LARGE


@pytest.mark.parametrize(
    "lent",
    [
        (codec.Lent(0, b"x" * 16, 4096, 10, 1),),  # a memory that nobody has offered
        (codec.Lent(1, b"", 4096, 10, 1),),  # behind the end
        (codec.Lent(0, b"", 0, 10, 1),),
        (codec.Lent(0, b"", 4097, 10, 1),),
        (codec.Lent(0, b"", 1 << 40, 10, 1),),
        (codec.Lent(0, b"", 4096, 1 << 40, 1),),
        (),
    ],
)
def test_places_that_cannot_be_are_a_message_that_cannot_be_read(
    gateway: MemorySharing, worker: MemorySharing, lent: tuple[codec.Lent, ...]
) -> None:
    mark = introduce(worker, gateway).mark
    named = [codec.Lent(one.index, one.mark or mark, one.offset, one.size, one.stamp) for one in lent]
    head = codec.encode(m.Bye(), 1, codec.LENDS)
    with pytest.raises(codec.WireError):
        gateway.unpacked(head, [memoryview(codec.pack_lent(named))])


@pytest.mark.parametrize("table", [b"", b"\xc0", b"\x91\x90", b"\xdd\xff\xff\xff\xff", b"x" * 100])
def test_a_table_that_is_none_is_a_message_that_cannot_be_read(gateway: MemorySharing, table: bytes) -> None:
    head = codec.encode(m.Bye(), 1, codec.LENDS)
    with pytest.raises(codec.WireError):
        gateway.unpacked(head, [memoryview(table)])
