"""Chunks of archives: how far ahead of what it takes a node is served."""

from torchrelay.broker.core.effects import ReadChunk
from torchrelay.broker.network.chunk_credit import ASKS_LIMIT, CREDIT_CHUNKS, ChunkCredit

NODE, OTHER = b"n-1", b"n-2"


class Way:
    """A chunk's way through zmq."""

    done = False

    def has_left(self) -> bool:
        return self.done


class Disk:
    """Notes what is read, and has it sent at once."""

    def __init__(self) -> None:
        self.read: list[ReadChunk] = []
        self.ways: list[Way] = []
        self.credit = ChunkCredit(self.read.append)

    def ask(self, count: int, peer: bytes = NODE, start: int = 0) -> None:
        for number in range(start, start + count):
            self.credit.ask(ReadChunk(peer, "sha", number, 1))

    def send_all(self) -> None:
        for chunk in self.read[len(self.ways) :]:
            self.ways.append(Way())
            self.credit.was_read(chunk.peer)
            self.credit.was_sent(chunk.peer, self.ways[-1].has_left)


def test_a_node_that_reads_nothing_has_no_more_chunks_on_their_way_than_its_credit() -> None:
    disk = Disk()
    disk.ask(180)
    disk.send_all()
    disk.credit.go_on()
    assert [chunk.offset for chunk in disk.read] == list(range(CREDIT_CHUNKS))


def test_a_chunk_that_has_left_makes_room_for_the_next() -> None:
    disk = Disk()
    disk.ask(CREDIT_CHUNKS + 2)
    disk.send_all()
    disk.ways[3].done = True
    disk.credit.go_on()
    assert len(disk.read) == CREDIT_CHUNKS + 1
    disk.send_all()
    for way in disk.ways:
        way.done = True
    disk.credit.go_on()
    assert [chunk.offset for chunk in disk.read] == list(range(CREDIT_CHUNKS + 2))


def test_chunks_that_are_missing_take_no_credit_for_ever() -> None:
    disk = Disk()
    disk.ask(CREDIT_CHUNKS + 1)
    disk.credit.was_read(NODE)  # and nothing of it is sent
    disk.credit.go_on()
    assert len(disk.read) == CREDIT_CHUNKS + 1


def test_nodes_do_not_wait_for_each_other() -> None:
    disk = Disk()
    disk.ask(100)
    disk.ask(1, OTHER)
    assert disk.read[-1].peer == OTHER


def test_of_asks_beyond_the_limit_the_oldest_are_forgotten_and_a_lost_node_leaves_nothing() -> None:
    disk = Disk()
    disk.ask(CREDIT_CHUNKS + ASKS_LIMIT + 5)
    disk.send_all()
    disk.ways[0].done = True
    disk.credit.go_on()
    assert disk.read[-1].offset == CREDIT_CHUNKS + 5
    disk.credit.forget(NODE)
    for way in disk.ways:
        way.done = True
    disk.credit.go_on()
    assert len(disk.read) == CREDIT_CHUNKS + 1
