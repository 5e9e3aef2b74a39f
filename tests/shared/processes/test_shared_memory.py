"""Memory that is lent: what a reader gets is the piece that it was told of, or none."""

import fcntl
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import eventually
from torchrelay.shared.processes.shared_memory import (
    KEPT_FREE_BYTES,
    UNTAKEN_S,
    LentMemory,
    Memory,
    MemoryPlace,
    NoSuchMemory,
    Piece,
    PieceGone,
    open_memory,
)

LIMIT_BYTES = 8 << 20
LARGE = 100_000

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no memory to lend")


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def lender(opened: ExitStack, limit_bytes: int = LIMIT_BYTES, *, until_taken: bool = False) -> LentMemory:
    made = LentMemory(limit_bytes, until_taken=until_taken)
    opened.callback(made.close)
    return made


def lent(memory: LentMemory, data: bytes, now: float = 0.0) -> Piece:
    piece = memory.lend(data, now)
    assert piece is not None
    return piece


def as_read(memory: LentMemory, *, takes: bool = False) -> Memory:
    return open_memory(memory.place, memory.limit_bytes, takes=takes)


def told(reader: Memory, piece: Piece) -> Piece:
    """Return a piece as another process makes it from what it was told."""
    return reader.piece(piece.offset, piece.size, piece.stamp)


def used_bytes(memory: LentMemory) -> int:
    return os.fstat(memory.fd).st_blocks * 512


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 65_472, b"y" * 65_473, os.urandom(3 << 20)])
def test_a_reader_finds_what_was_lent(opened: ExitStack, data: bytes) -> None:
    memory = lender(opened)
    piece = lent(memory, data)
    assert len(piece) == len(data)
    assert told(as_read(memory), piece).copied() == piece.copied() == data


def test_memory_takes_only_what_was_written_to_it(opened: ExitStack) -> None:
    memory = lender(opened, 1 << 40)
    before = used_bytes(memory)
    kept = lent(memory, b"x" * LARGE)
    assert used_bytes(memory) - before < LARGE + 3 * 4096
    assert kept.copied() == b"x" * LARGE


def test_a_piece_is_used_again_once_its_owner_lets_go_of_it_and_who_reads_late_gets_nothing(
    opened: ExitStack,
) -> None:
    memory = lender(opened)
    first = lent(memory, b"a" * LARGE)
    late = told(as_read(memory), first)
    offset = first.offset
    del first
    second = lent(memory, b"b" * LARGE)
    assert second.offset == offset
    with pytest.raises(PieceGone):
        late.copied()
    assert second.copied() == b"b" * LARGE


def test_a_piece_that_is_kept_until_taken_is_free_when_it_was_copied(opened: ExitStack) -> None:
    memory = lender(opened, until_taken=True)
    reader = as_read(memory, takes=True)
    first = lent(memory, b"a" * LARGE)
    second = lent(memory, b"b" * LARGE)
    assert second.offset != first.offset
    assert told(reader, first).copied() == b"a" * LARGE
    assert lent(memory, b"c" * LARGE).offset == first.offset
    assert told(reader, second).copied() == b"b" * LARGE


def test_who_only_looks_takes_nothing(opened: ExitStack) -> None:
    memory = lender(opened, until_taken=True)
    first = lent(memory, b"a" * LARGE)
    assert told(as_read(memory), first).copied() == first.copied()
    assert lent(memory, b"b" * LARGE).offset != first.offset


def test_what_nobody_takes_is_free_after_a_while(opened: ExitStack) -> None:
    memory = lender(opened, until_taken=True)
    first = lent(memory, b"a" * LARGE, now=0.0)
    assert lent(memory, b"b" * LARGE, now=UNTAKEN_S - 1).offset != first.offset
    memory.look(UNTAKEN_S)
    assert lent(memory, b"c" * LARGE, now=UNTAKEN_S).offset == first.offset


def test_where_there_is_no_room_nothing_is_lent_and_nothing_lost(opened: ExitStack) -> None:
    memory = lender(opened, 1 << 20)
    pieces = []
    while (piece := memory.lend(b"x" * LARGE, 0.0)) is not None:
        pieces.append(piece)
    assert 5 <= len(pieces) <= 8
    assert memory.lend(b"x" * (2 << 20), 0.0) is None
    assert {bytes(piece.copied()) for piece in pieces} == {b"x" * LARGE}
    pieces.pop()
    assert memory.lend(b"y" * LARGE, 0.0) is not None


def test_memory_goes_back_when_all_of_it_is_free(opened: ExitStack) -> None:
    memory = lender(opened, 256 << 20)
    pieces = [lent(memory, bytes(4 << 20)) for _ in range(2 * KEPT_FREE_BYTES // (4 << 20))]
    assert used_bytes(memory) > KEPT_FREE_BYTES
    late = told(as_read(memory), pieces[-1])
    pieces.clear()
    memory.look(0.0)
    assert used_bytes(memory) < 1 << 20
    with pytest.raises(PieceGone):
        late.copied()
    assert lent(memory, b"again").copied() == b"again"


class Interrupted(dict[int, list[int]]):
    """What is free, asked amid a change; then the collector comes."""

    collect: Callable[[], None] = staticmethod(lambda: None)

    def get(self, room: int, default: Any = None) -> Any:
        found = super().get(room, default)
        self.collect()
        return found


def test_a_piece_that_is_let_go_of_amid_a_change_is_free_at_the_next_one(opened: ExitStack) -> None:
    memory = lender(opened, 64 << 20)
    free = memory._free = Interrupted()
    first = lent(memory, b"a" * LARGE)
    held = [lent(memory, bytes(KEPT_FREE_BYTES))]
    del first
    memory.look(0.0)
    free.collect = held.clear
    second = lent(memory, b"b" * LARGE)
    third = lent(memory, b"c" * LARGE)
    assert second.offset != third.offset
    assert second.copied() == b"b" * LARGE
    assert third.copied() == b"c" * LARGE


@given(st.integers(-1, LIMIT_BYTES + 1), st.integers(0, LIMIT_BYTES), st.integers(0, 3))
def test_a_piece_outside_of_a_memory_is_none(offset: int, size: int, stamp: int) -> None:
    with ExitStack() as stack:
        memory = lender(stack)
        kept = lent(memory, b"a" * LARGE)
        reader = as_read(memory)
        with suppress(PieceGone):
            assert reader.piece(offset, size, stamp).copied() == kept.copied()


def test_what_a_reader_gets_while_a_piece_is_written_anew_is_whole(opened: ExitStack) -> None:
    """Two threads: one lends the same place over and over, filled with one value each time."""
    memory = lender(opened)
    reader = as_read(memory)
    current = [lent(memory, b"\0" * LARGE)]
    is_over = threading.Event()

    def write() -> None:
        for number in range(300):
            offset = current[0].offset
            current.clear()
            current.append(lent(memory, bytes([number % 256]) * LARGE))
            assert current[0].offset == offset
        is_over.set()

    writing = threading.Thread(target=write)
    writing.start()
    read = 0
    while not is_over.is_set():
        with suppress(PieceGone, IndexError):
            assert len(set(told(reader, current[0]).copied())) == 1
            read += 1
    writing.join()
    assert len(set(told(reader, current[0]).copied())) == 1


# Who may be read


def test_what_is_no_memory_of_ours_is_refused(opened: ExitStack) -> None:
    memory = lender(opened)
    address, mark = memory.place
    wrong = (
        (MemoryPlace(address, os.urandom(16)), LIMIT_BYTES),
        (MemoryPlace(address, mark[:8]), LIMIT_BYTES),
        (MemoryPlace(address, b""), LIMIT_BYTES),
        (MemoryPlace(address, mark), LIMIT_BYTES // 2),
        (MemoryPlace(address, mark), 1 << 62),
        (MemoryPlace(address, mark), 0),
        (MemoryPlace(b"\0torchrelay-nobody", mark), LIMIT_BYTES),
        (MemoryPlace(b"\0" + b"x" * 200, mark), LIMIT_BYTES),
        (MemoryPlace(b"/a/file", mark), LIMIT_BYTES),
        (MemoryPlace(b"", mark), LIMIT_BYTES),
    )
    for place, size_bytes in wrong:
        with pytest.raises(NoSuchMemory):
            open_memory(place, size_bytes, takes=False)
    assert as_read(memory).piece(*of(lent(memory, b"x"))).copied() == b"x"


def of(piece: Piece) -> tuple[int, int, int]:
    return piece.offset, piece.size, piece.stamp


@contextmanager
def server_with(fd: int | None) -> Iterator[bytes]:
    """Listen as a stranger does, who hands out what he likes."""
    name = b"\0torchrelay-test-" + os.urandom(8).hex().encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(name)
        listening.listen()

        def answer() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.recv(100)
                if fd is not None:
                    socket.send_fds(peer, [b"\1"], [fd])

        answering = threading.Thread(target=answer)
        answering.start()
        yield name
        answering.join()


def test_a_file_a_pipe_or_nothing_at_its_address_is_refused(opened: ExitStack) -> None:
    reader, writer = os.pipe()
    fds = (reader, writer, os.open(__file__, os.O_RDONLY))
    for fd in fds:
        opened.callback(os.close, fd)
    for handed_out in (*fds, None):
        with server_with(handed_out) as address, pytest.raises(NoSuchMemory):
            open_memory(MemoryPlace(address, b"m" * 16), LIMIT_BYTES, takes=False)


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_SHRINK])
def test_memory_that_could_be_shortened_is_not_read(opened: ExitStack, seals: int) -> None:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    opened.callback(os.close, fd)
    mark = os.urandom(16)
    os.write(fd, mark)
    os.ftruncate(fd, LIMIT_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    with server_with(fd) as address, pytest.raises(NoSuchMemory):
        open_memory(MemoryPlace(address, mark), LIMIT_BYTES, takes=False)


def test_a_peer_who_says_nothing_or_too_much_keeps_nobody_else_out_for_long(opened: ExitStack) -> None:
    memory = lender(opened)
    for said in (b"", b"x", memory.place.mark + b"x" * 10_000):
        peer = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        peer.connect(memory.place.address)
        if said:
            peer.sendall(said)

    def is_open() -> bool:
        with suppress(NoSuchMemory):
            return as_read(memory) is not None
        return False

    eventually(is_open)


def test_closed_memory_hands_out_nothing() -> None:
    memory = LentMemory(LIMIT_BYTES, until_taken=False)
    reader = as_read(memory)
    piece = lent(memory, b"before")
    memory.close()
    with pytest.raises(NoSuchMemory):
        as_read(memory)
    assert told(reader, piece).copied() == b"before"


#: Lends a few bytes as a process that others can't look into, and says where.
LENDER = """
import time
from torchrelay.shared.processes.private_memory import keep_memory_private
from torchrelay.shared.processes.shared_memory import LentMemory
keep_memory_private()
memory = LentMemory(1 << 20, until_taken=False)
piece = memory.lend(b"last words", 0.0)
print(memory.place.address.hex(), memory.place.mark.hex(), piece.offset, piece.stamp, flush=True)
time.sleep(99)
"""


def test_memory_can_be_read_after_its_owner_was_killed_and_its_address_is_gone() -> None:
    owner = subprocess.Popen([sys.executable, "-c", LENDER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    try:
        address, mark, offset, stamp = owner.stdout.readline().split()
        place = MemoryPlace(bytes.fromhex(address), bytes.fromhex(mark))
        reader = open_memory(place, 1 << 20, takes=False)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    assert reader.piece(int(offset), 10, int(stamp)).copied() == b"last words"
    with pytest.raises(NoSuchMemory):
        open_memory(place, 1 << 20, takes=False)
    assert place.address[1:].decode() not in Path("/proc/net/unix").read_text()
