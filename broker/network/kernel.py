"""What Linux knows of this process's sockets and memory."""

import contextlib
import ctypes
import fcntl
import os
import resource
import socket
import struct
import termios

from torchrelay.broker.network.connections import Kernel, Traffic
from torchrelay.shared.wire.sockets import IPV4_IN_IPV6

#: Fds of the broker's process: more than any fleet has connections.
FDS_LIMIT = 65_536
#: Of getsockopt(TCP_INFO): tcpi_bytes_acked and tcpi_bytes_received, each of 64 bits.
_TCP_INFO, _ACKED_AT, _INFO_BYTES = 11, 120, 136
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: Memory has to grow by so much before freed memory is given back again.
_TRIM_BYTES = 64 << 20
#: How often memory is given back after a connection has ended: libzmq frees what it held in its own time.
_TRIMS_AFTER_END = 30


class Linux(Kernel):
    """What Linux knows. The fds are libzmq's, which may close them at any time."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        # Opened once: it is needed most when no fd is left.
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._info = ctypes.create_string_buffer(_INFO_BYTES)
        self._trimmed_bytes = 0
        self._trims_due = 0

    def identity(self, fd: int) -> int | None:
        """Return the socket's inode, which no other open socket has."""
        try:
            return os.fstat(fd).st_ino
        except OSError:
            return None

    def address(self, fd: int) -> str:
        """Ask for the other end's address."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:
            name = connection.getpeername()
            # libzmq has closed its own, and the number is that of a unix socket now: its name is a text.
            return str(name[0]).removeprefix(IPV4_IN_IPV6) if isinstance(name, tuple) else ""
        return ""

    def traffic(self, fd: int) -> Traffic | None:
        """Ask the kernel for its counts of bytes."""
        try:
            unread, untaken = _queued(fd, termios.FIONREAD), _queued(fd, termios.TIOCOUTQ)
        except OSError:
            return None
        size = ctypes.c_uint(_INFO_BYTES)
        failed = self._libc.getsockopt(fd, socket.IPPROTO_TCP, _TCP_INFO, self._info, ctypes.byref(size))
        if failed or size.value < _INFO_BYTES:
            return Traffic(None, None, unread, untaken)
        acked, received = struct.unpack_from("=QQ", self._info, _ACKED_AT)
        return Traffic(received, acked, unread, untaken)

    def cut(self, fd: int, identity: int) -> None:
        """Shut it down by an fd of our own, so that no other socket can be meant."""
        try:
            own = os.dup(fd)
        except OSError:  # it is closed, or no fd is left
            own = fd
        if self.identity(own) == identity:
            self._libc.shutdown(own, socket.SHUT_RDWR)
            self.expect_freed()
        if own != fd:
            os.close(own)

    def expect_freed(self) -> None:
        """Have the next counts of memory give back what is free."""
        self._trims_due = _TRIMS_AFTER_END

    def memory_bytes(self) -> int:
        """Count resident memory; what was freed is given back before it is blamed on anybody."""
        memory = self._resident_bytes()
        if self._trims_due or memory > self._trimmed_bytes + _TRIM_BYTES:
            self._trims_due = max(0, self._trims_due - 1)
            with contextlib.suppress(AttributeError):  # not glibc
                self._libc.malloc_trim(0)
            memory = self._trimmed_bytes = self._resident_bytes()
        self._trimmed_bytes = min(memory, self._trimmed_bytes)
        return memory

    def close(self) -> None:
        """Close the file of the process's memory."""
        os.close(self._statm)

    def _resident_bytes(self) -> int:
        return int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE_BYTES


def _queued(fd: int, request: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(fd, request, bytes(4)))[0])


def raise_fd_limit() -> int:
    """Let this process have as many fds as its user may give it, up to a bound; return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FDS_LIMIT if hard == resource.RLIM_INFINITY else min(hard, FDS_LIMIT)
    if wanted > soft >= 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft if soft >= 0 else FDS_LIMIT
