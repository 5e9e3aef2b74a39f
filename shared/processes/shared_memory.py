"""Memory that a process lends to others of its host: what it writes there once, they read where it lies.

It is a memfd, sealed at its size: no name that could be left over, no page before something is written to it,
none shortened under a reader, and all of it gone with the last process that has it open, however that ends.

A piece of it is used again when it is free, perhaps while somebody still reads who was stopped for long. So
each has a stamp in front, which changes before anything else of it does: who finds the stamp that it was
told, after it has copied the piece, has copied that one and nothing else.
"""

import fcntl
import hmac
import itertools
import mmap
import os
import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from torchrelay.shared import ids

Readable = bytes | bytearray | memoryview

#: In front of a piece: its stamp, its size, and whether it was taken.
_HEADER = struct.Struct("=QQQ")
_TAKEN = struct.Struct("=Q")
_TAKEN_AT = 16
#: What follows the header begins where a cache line does.
_HEADER_BYTES = 64
#: In front of all pieces: what tells this memory from any other.
MARK_BYTES = 16
_FIRST_OFFSET = mmap.PAGESIZE
#: Where nothing has been written there are zeros.
_FIRST_STAMP = 1
#: A piece takes a power of two, so that it fits another one later; of the last page only what is written.
_SMALLEST_ROOM = 16 * 1024
#: Free memory that is kept, since to have the kernel clear new pages takes longer than to copy them.
KEPT_FREE_BYTES = 16 << 20
#: How long a piece waits to be taken: whoever it is for is gone, or has answered for it otherwise.
UNTAKEN_S = 60.0
#: Pieces that are looked at, whether they were taken, when another one is lent.
_LOOKED_AT = 4

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW

#: How long it may take to hand a memory out, which takes 0.1 ms; and how many may wait for that at a time.
FETCH_S = 0.2
_BACKLOG = 128
#: What the kernel says of who is at the other end: process, user, group.
_CREDENTIALS = struct.Struct("=iII")

#: PERF: 0.1 us, what is written before it is seen before what is written after it, on any CPU.
_fence = threading.Lock()


class PieceGone(Exception):
    """A piece of memory that is another one by now."""


class NoSuchMemory(Exception):
    """A memory that can't be read."""


class MemoryPlace(NamedTuple):
    """Where a memory is: at which socket it is handed out, and its mark, by which it is asked for there."""

    address: bytes
    mark: bytes


class Memory:
    """A memory that this process has mapped. It is there as long as that, whatever its owner does.

    It takes a file descriptor: Python keeps its own of what it maps.
    """

    def __init__(self, place: MemoryPlace, mapped: mmap.mmap, *, takes: bool) -> None:
        self.place = place
        self._view = memoryview(mapped)
        self._takes = takes

    def piece(self, offset: int, size: int, stamp: int) -> "Piece":
        """Return a piece of it. Raises PieceGone where it has no such place."""
        end = offset + _HEADER_BYTES + size
        is_inside = offset >= _FIRST_OFFSET and end <= len(self._view)
        if not is_inside or offset % mmap.PAGESIZE or stamp < _FIRST_STAMP:
            raise PieceGone
        return Piece(self, offset, size, stamp)

    def copied(self, offset: int, size: int, stamp: int) -> bytearray:
        """Return what a piece holds, which its owner may use again then. Raises PieceGone."""
        start = offset + _HEADER_BYTES
        data = bytearray(self._view[start : start + size])
        with _fence:
            found = _HEADER.unpack_from(self._view, offset)
        if found[:2] != (stamp, size):
            raise PieceGone
        if self._takes:
            _TAKEN.pack_into(self._view, offset + _TAKEN_AT, 1)
        return data


class Piece:
    """A piece of a memory, which stands for what it holds."""

    __slots__ = ("memory", "offset", "size", "stamp")

    def __init__(self, memory: Memory, offset: int, size: int, stamp: int) -> None:
        self.memory = memory
        self.offset = offset
        self.size = size
        self.stamp = stamp

    def __len__(self) -> int:
        return self.size

    def copied(self) -> bytearray:
        """Return what it holds. Raises PieceGone."""
        return self.memory.copied(self.offset, self.size, self.stamp)


class HeldPiece(Piece):
    """A piece of this process's own memory, which is free once it is let go of here."""

    __slots__ = ("_filled", "_owner")

    def __init__(self, owner: "LentMemory", memory: Memory, offset: int, size: int, stamp: int) -> None:
        super().__init__(memory, offset, size, stamp)
        self._owner = owner
        self._filled = 0

    def write(self, data: Readable) -> None:
        """Put data behind what was written before. Raises ValueError where that is more than its size."""
        start, self._filled = self._filled, self._filled + len(data)
        if self._filled > self.size:
            raise ValueError(f"{self._filled} bytes are no piece of {self.size}")
        self._owner.write(self.offset, start, data)

    def __del__(self) -> None:
        self._owner.drop(self.offset, self.size)


class LentMemory:
    """The memory that this process lends, and what of it is free.

    A piece is free again when it is let go of here; with `until_taken` when it was copied by another process,
    or was not for UNTAKEN_S.
    """

    def __init__(self, limit_bytes: int, *, until_taken: bool) -> None:
        """Make it, for pieces of so many bytes in all. Raises OSError where the system has no such thing."""
        if not hasattr(os, "memfd_create"):
            raise OSError("no memory of this system can be lent")
        self.limit_bytes = limit_bytes
        self.is_until_taken = until_taken
        self.fd = os.memfd_create("torchrelay", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, limit_bytes)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        self._mapped = mmap.mmap(self.fd, limit_bytes)
        self._view = memoryview(self._mapped)
        mark = ids.mark()
        self._view[:MARK_BYTES] = mark
        self._server = _MemoryServer(self.fd, mark)
        self.place = MemoryPlace(self._server.address, mark)
        self._memory = Memory(self.place, self._mapped, takes=False)
        self._stamps = itertools.count(_FIRST_STAMP)
        #: Offsets of what is free, by their room; all behind `_end` is free, too.
        self._free: dict[int, list[int]] = {}
        self._end = _FIRST_OFFSET
        self._used = 0
        #: Those that wait to be taken: offset, size, until when; about in the order of that.
        self._untaken: deque[tuple[int, int, float]] = deque()
        #: Those that were let go of, which may happen at any moment, also amid what changes the lists above.
        self._dropped: deque[tuple[int, int]] = deque()

    def close(self) -> None:
        """Let go of it; whoever reads it has it still."""
        self._server.close()
        os.close(self.fd)

    def lend(self, data: Readable, now: float) -> Piece | None:
        """Copy data into a piece; None where there is no room."""
        self._look(min(_LOOKED_AT, len(self._untaken)), now)
        size = len(data)
        if (begun := self._begin(size)) is None:
            return None
        offset, stamp = begun
        self.write(offset, 0, data)
        if not self.is_until_taken:
            return HeldPiece(self, self._memory, offset, size, stamp)
        self._untaken.append((offset, size, now + UNTAKEN_S))
        return Piece(self._memory, offset, size, stamp)

    def reserve(self, size: int) -> HeldPiece | None:
        """Return a piece to be written bit by bit, which takes memory then; None where there is no room."""
        if self.is_until_taken or (begun := self._begin(size)) is None:
            return None
        offset, stamp = begun
        return HeldPiece(self, self._memory, offset, size, stamp)

    def write(self, offset: int, start: int, data: Readable) -> None:
        """Copy data into the piece at an offset, from `start` on."""
        at = offset + _HEADER_BYTES + start
        self._view[at : at + len(data)] = data

    def _begin(self, size: int) -> tuple[int, int] | None:
        """Take a piece, and say by its stamp that it is another one now."""
        self._take_back_dropped()
        offset = self._take(_room(size))
        if offset is None:
            return None
        stamp = next(self._stamps)
        with _fence:
            _HEADER.pack_into(self._view, offset, stamp, size, 0)
        return offset, stamp

    def look(self, now: float) -> None:
        """Free what was let go of or taken by now, or was not taken for too long."""
        self._take_back_dropped()
        self._look(len(self._untaken), now)

    def drop(self, offset: int, size: int) -> None:
        """Take note that a piece was let go of; from any thread, at any moment."""
        self._dropped.append((offset, size))

    def _take_back_dropped(self) -> None:
        while self._dropped:
            self._give_back(*self._dropped.popleft())

    def _give_back(self, offset: int, size: int) -> None:
        """Count a piece as free."""
        self._free.setdefault(_room(size), []).append(offset)
        self._used -= 1
        if not self._used and self._end > _FIRST_OFFSET + KEPT_FREE_BYTES:
            self._mapped.madvise(mmap.MADV_REMOVE, _FIRST_OFFSET, self._end - _FIRST_OFFSET)
            self._free.clear()
            self._end = _FIRST_OFFSET

    def _look(self, count: int, now: float) -> None:
        for _ in range(count):
            offset, size, until = waiting = self._untaken.popleft()
            if now < until and not _TAKEN.unpack_from(self._view, offset + _TAKEN_AT)[0]:
                self._untaken.append(waiting)
            else:
                self._give_back(offset, size)

    def _take(self, room: int) -> int | None:
        if free := self._free.get(room):
            offset = free.pop()
        elif self._end + room <= self.limit_bytes:
            offset = self._end
            self._end += room
        else:
            return None
        self._used += 1
        return offset


def _room(size: int) -> int:
    return max(_SMALLEST_ROOM, 1 << (size + _HEADER_BYTES - 1).bit_length())


class _MemoryServer:
    """Hands a memory out to other processes of this user that know its mark.

    By a socket of the abstract namespace: no file, and no name once the process has ended. So a process may
    be closed to others otherwise, as those are that hold keys.
    """

    def __init__(self, fd: int, mark: bytes) -> None:
        self._fd = fd
        self._mark = mark
        self._closing = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.address = b"\0torchrelay-" + ids.folder_suffix().encode()
        self._socket.bind(self.address)
        self._socket.listen(_BACKLOG)
        self._thread = threading.Thread(target=self._serve, name="lent memory", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._socket.shutdown(socket.SHUT_RDWR)  # ends the thread's wait
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                peer, _ = self._socket.accept()
            except OSError:  # closed, or there is no file descriptor left
                self._closing.wait(FETCH_S)
                continue
            with peer, suppress(OSError):
                peer.settimeout(FETCH_S)
                self._answer(peer)

    def _answer(self, peer: socket.socket) -> None:
        _, user, _ = _CREDENTIALS.unpack(
            peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if user == os.geteuid() and hmac.compare_digest(peer.recv(MARK_BYTES), self._mark):
            socket.send_fds(peer, [b"\1"], [self._fd])


def open_memory(place: MemoryPlace, size_bytes: int, *, takes: bool) -> Memory:
    """Open what another process of this host lends; with `takes` pieces are free for it once they are copied.

    It waits for FETCH_S at most. Raises NoSuchMemory where there is none, or none that may be relied on.
    """
    if place.address[:1] != b"\0":
        raise NoSuchMemory("it has another kind of address")
    try:
        fd = _fetch(place)
        try:
            if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS or os.fstat(fd).st_size != size_bytes:
                raise NoSuchMemory("it could be made shorter under its readers")
            mapped = mmap.mmap(fd, size_bytes, access=mmap.ACCESS_WRITE if takes else mmap.ACCESS_READ)
        finally:
            os.close(fd)
    except (OSError, ValueError, OverflowError) as error:
        raise NoSuchMemory(f"it can't be read: {error}") from error
    if mapped[:MARK_BYTES] != place.mark:
        raise NoSuchMemory("it is another")
    return Memory(place, mapped, takes=takes)


def _fetch(place: MemoryPlace) -> int:
    """Return a memory's file descriptor, as its owner hands it out. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(FETCH_S)
        peer.connect(place.address)
        peer.sendall(place.mark)
        _, fds, _, _ = socket.recv_fds(peer, 1, 1)
    if not fds:
        raise FileNotFoundError("it was not handed out")
    return fds[0]
