"""Fork servers: fork a process for each order that comes over a socket pair, and collect those that end.

What runs in the forks, and what is told of their ends, is the subclass's. When the other end of the pair is
closed, as by the death of who holds it, the server ends.
"""

import contextlib
import os
import selectors
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Generic, TypeVar

from torchrelay.shared.processes.parent_death import die_with_parent

KeyT = TypeVar("KeyT", bound=Hashable)
WorkT = TypeVar("WorkT")


def inherited_socket(fd: int) -> socket.socket:
    """Take over the server's end of the pair; a command line named its fd.

    A terminal's Ctrl-C and a service manager's SIGTERM reach every process. From here on this one ignores
    them: it is who holds the other end that acts.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    inherited = socket.socket(fileno=fd)
    inherited.set_inheritable(False)
    return inherited


def heed_signals() -> None:
    """Have a forked process heed what its server ignores."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A terminal's Ctrl-C is for its own group of processes, and this one has left it. Ignored, it would be
    # so in all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class ForkServer(ABC, Generic[WorkT]):
    """Waits for orders and for the ends of forked processes, in one thread."""

    #: The largest packet, and how many fds come with one.
    packet_limit_bytes: int
    fds_per_packet: int

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        #: SIGCHLD writes into the one end, which wakes the loop that reads the other.
        self._wake_reader, self._wake_writer = socket.socketpair()

    def serve(self) -> WorkT | None:
        """Serve until the other end is closed, and return None; in a forked process, return its work."""
        self._wake_writer.setblocking(False)
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(self._orders, selectors.EVENT_READ)
        selector.register(self._wake_reader, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if self._wake_reader in ready:
                self._wake_reader.recv(4096)
                self._reap()
            if self._orders in ready:
                packet, fds = self._receive()
                if not packet:
                    return None
                work = self._obey(packet, fds)
                if work is not None:
                    selector.close()
                    return work

    def _receive(self) -> tuple[bytes, list[int]]:
        """Return the next packet, with its fds; it is empty when the other end is closed."""
        try:
            packet, fds, _, _ = socket.recv_fds(self._orders, self.packet_limit_bytes, self.fds_per_packet)
        except ConnectionResetError:  # so it is where reports were left unread there
            return b"", []
        return packet, fds

    def _be_forked(self, parent: int) -> None:
        """Make a forked process of the server `parent` one that dies with it, and holds nothing of it."""
        die_with_parent(parent)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._orders, self._wake_reader, self._wake_writer):
            end.close()

    @abstractmethod
    def _obey(self, packet: bytes, fds: list[int]) -> WorkT | None:
        """Do what a packet orders; in a process that is forked for it, return what it has to do."""

    @abstractmethod
    def _reap(self) -> None:
        """Collect the processes that have ended."""


class GroupForkServer(ForkServer[WorkT], Generic[KeyT, WorkT]):
    """A fork server whose processes lead groups: what one leaves running is killed at its end."""

    def __init__(self, orders: socket.socket) -> None:
        super().__init__(orders)
        #: The processes that run, by what orders call them.
        self._pids: dict[KeyT, int] = {}

    def _fork_group(self, key: KeyT) -> int:
        """Fork a process that leads a group; return its pid, and 0 in it. Raises OSError."""
        parent = os.getpid()
        pid = os.fork()
        # Both do it: whoever comes first, no signal to the group finds none. One that has gone on to another
        # program has done it, and the kernel refuses it to its parent.
        with contextlib.suppress(PermissionError):
            os.setpgid(pid, pid)
        if pid:
            self._pids[key] = pid
        else:
            self._be_forked(parent)
        return pid

    def _signal(self, key: KeyT, number: int) -> None:
        """Signal a process, if it runs; SIGKILL is for its whole group, SIGTERM wakes one that is stopped."""
        pid = self._pids.get(key)
        if pid is not None:
            (os.killpg if number == signal.SIGKILL else os.kill)(pid, number)
            if number == signal.SIGTERM:
                os.kill(pid, signal.SIGCONT)

    def _reap(self) -> None:
        """Collect the processes that ended, and end what they left running."""
        for key, pid in list(self._pids.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            # Before the process is reaped its number is no one else's; it may be the group's last.
            os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            del self._pids[key]
            self._tell_end(key, os.waitstatus_to_exitcode(status))

    def _tell(self, report: bytes) -> None:
        """Send a report to the other end."""
        try:
            self._orders.send(report)
        except (BrokenPipeError, ConnectionResetError):
            return  # who holds it is gone, and the loop sees it next

    @abstractmethod
    def _tell_end(self, key: KeyT, code: int) -> None:
        """Report the end of a process; the code is negative for a signal."""
