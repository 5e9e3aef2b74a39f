"""The node's end of the launcher: starts the fork server, sends it orders, reads its reports."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

import msgspec

from torchrelay.worker.launcher import launcher_protocol as protocol


class Launcher:
    """A fork server process, `python -m torchrelay.worker.launcher`, that ends when this object is closed.

    It imports torch first, which takes seconds; orders that are sent meanwhile wait in the socket.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        """Start it with these variables as its whole environment."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # -P: what lies in the folder the node was started in is none of a handler's modules.
            arguments = [str(theirs.fileno()), str(os.getpid())]
            command = [sys.executable, "-P", "-m", "torchrelay.worker.launcher", *arguments]
            # In a process group of its own: it survives a kill of the node's group, and ends the workers.
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=variables, process_group=0
            )
        #: Worker id -> pid of the workers that it has forked and not reported as exited.
        self._pids: dict[int, int] = {}

    @property
    def fd(self) -> int:
        """An fd that is readable when there is a report, or the launcher is gone."""
        return self._socket.fileno()

    def fork(self, spec: protocol.WorkerSpec, stdout_fd: int, stderr_fd: int, status_fd: int) -> None:
        """Order a worker; the launcher gets its own copies of the fds. Raises OSError if that fails."""
        spec_fd = protocol.write_spec(spec)
        order = msgspec.json.encode(protocol.Fork(spec.start.worker_id))
        try:
            # A launcher that is gone shows at `fd`, and its orders with it.
            with contextlib.suppress(BrokenPipeError):
                socket.send_fds(self._socket, [order], [spec_fd, stdout_fd, stderr_fd, status_fd])
        finally:
            os.close(spec_fd)

    def signal(self, worker_id: int, number: int) -> None:
        """Order a signal; for a worker that has ended nothing happens."""
        with contextlib.suppress(BrokenPipeError):
            self._socket.send(msgspec.json.encode(protocol.Signal(worker_id, number)))

    def report(self) -> protocol.Report | None:
        """Read the next report, or None if the launcher is gone; call it when `fd` is readable."""
        try:
            packet = self._socket.recv(protocol.PACKET_LIMIT_BYTES)
        except ConnectionResetError:
            packet = b""
        report = msgspec.json.decode(packet, type=protocol.Report) if packet else None
        match report:
            case protocol.Forked(worker_id, pid):
                self._pids[worker_id] = pid
            case protocol.Exited(worker_id):
                self._pids.pop(worker_id, None)  # not there if it could not be forked
        return report

    def close(self, timeout_s: float) -> int | None:
        """End the launcher and every worker it still has; return its exit code."""
        self._socket.close()
        try:
            exit_code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            # It is still importing, or stuck.
            self._process.kill()
            exit_code = self._process.wait()
        if exit_code:  # it could not end them
            for pid in self._pids.values():
                # As long as a group has members, its number is given to no one else.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
        return exit_code
