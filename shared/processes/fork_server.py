"""A fork server: forks a process for each order that comes over a socket pair, and collects those that end.

What runs in the forks, and what is told of their ends, is the subclass's. When the other end of the pair is
closed, as by the death of who holds it, the server ends.
"""

import selectors
import signal
import socket
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from torchrelay.shared.processes.parent_death import die_with_parent

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
                packet, fds, _, _ = socket.recv_fds(
                    self._orders, self.packet_limit_bytes, self.fds_per_packet
                )
                if not packet:
                    return None
                work = self._obey(packet, fds)
                if work is not None:
                    selector.close()
                    return work

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
