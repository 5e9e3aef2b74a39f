"""The supervisor's end of the fork server: has processes started, and learns of their ends."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess

import msgspec

from torchrelay.cli.start import part_forks
from torchrelay.cli.start.child import Launch, Role
from torchrelay.cli.start.fork_server_start import ForkServerStart

#: How long the fork server may take to end after its last process, and processes after the fork server.
CLOSE_S = 1.0


class StartedPart:
    """One process; `pid` once it runs."""

    pid = 0
    #: Whether the fork server has ended before it, and so ended it.
    is_orphan = False

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.start: asyncio.Future[int] = loop.create_future()
        self.end: asyncio.Future[int] = loop.create_future()
        #: The pipe by which it gets its launch, and later learns of this process's end.
        self.launch: asyncio.WriteTransport | None = None


class StartedParts:
    """The processes that are forked for this one, by a fork server, or the next where that was killed."""

    def __init__(self, starting: ForkServerStart) -> None:
        self._starting = starting
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._parts: dict[Role, StartedPart] = {}

    async def start(self, launch: Launch) -> StartedPart:
        """Start a process and give it its launch; the one of this role before has ended. Raises OSError."""
        orders = self._socket or self._start_server()
        part = self._parts[launch.role] = StartedPart()
        reads, writes = os.pipe()
        loop = asyncio.get_running_loop()
        part.launch, _ = await loop.connect_write_pipe(asyncio.Protocol, open(writes, "wb", buffering=0))  # noqa: SIM115 - the transport closes it
        part.launch.write(msgspec.json.encode(launch) + b"\n")
        order = msgspec.json.encode(part_forks.ForkPart(launch.role))
        try:
            with contextlib.suppress(BrokenPipeError):  # its end is seen by the reader
                socket.send_fds(orders, [order], [reads])
        finally:
            os.close(reads)
        part.pid = await part.start
        return part

    def signal(self, role: Role, number: int) -> None:
        """Send a signal to a process, if it still runs; SIGKILL goes to its whole group."""
        self._wake_server()
        if self._socket and role in self._parts:
            with contextlib.suppress(BrokenPipeError):
                self._socket.send(msgspec.json.encode(part_forks.SignalPart(role, number)))

    async def close(self) -> None:
        """End the fork server, and what it may still have."""
        self._wake_server()
        left = [part.end for part in self._parts.values()]
        if self._socket:
            self._lose_server()
        if self._server:
            try:
                await asyncio.to_thread(self._server.wait, CLOSE_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                await asyncio.to_thread(self._server.wait)
        self._starting.close()
        if left:
            await asyncio.wait(left, timeout=CLOSE_S)  # the kernel kills them, which takes a moment

    def _wake_server(self) -> None:
        """Have the fork server go on, if it is stopped: it would obey nothing."""
        if self._server:
            self._server.send_signal(signal.SIGCONT)

    def _start_server(self) -> socket.socket:
        if self._server:
            self._server.kill()  # it has gone, or is about to
            self._server.wait()
        self._server, ours = self._starting.take()
        ours.setblocking(False)
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours, self._on_report, ours)
        return ours

    def _on_report(self, ours: socket.socket) -> None:
        try:
            packet = ours.recv(part_forks.PACKET_LIMIT_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            packet = b""
        if not packet:
            self._lose_server()
            return
        match msgspec.json.decode(packet, type=part_forks.Report):
            case part_forks.PartForked(role, pid):
                self._parts[role].start.set_result(pid)
            case part_forks.PartNotForked(role, number):
                self._parts[role].start.set_exception(OSError(number, os.strerror(number)))
                self._forget(role)
            case part_forks.PartEnded(role, code):
                self._parts[role].end.set_result(code)
                self._forget(role)

    def _lose_server(self) -> None:
        """Take note that the fork server goes, and what it has forked with it: the kernel kills that."""
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        for role, part in list(self._parts.items()):
            self._forget(role)
            part.is_orphan = True
            if not part.start.done():
                part.start.set_result(0)
            try:
                fd = os.pidfd_open(part.pid) if part.pid else -1
            except ProcessLookupError:
                fd = -1
            if fd == -1:
                part.end.set_result(-signal.SIGKILL)
            else:
                loop.add_reader(fd, _end_orphan, part, fd)

    def _forget(self, role: Role) -> None:
        part = self._parts.pop(role)
        if part.launch:
            part.launch.close()


def _end_orphan(part: StartedPart, fd: int) -> None:
    """Take note of the end of a process that nobody has waited for."""
    asyncio.get_running_loop().remove_reader(fd)
    os.close(fd)
    if not part.end.done():  # who waited for it may have been cancelled, at the very end
        part.end.set_result(-signal.SIGKILL)
