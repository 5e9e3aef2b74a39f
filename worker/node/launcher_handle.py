"""The node's end of the launcher: starts the fork server, sends it orders, reads its reports."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

import msgspec

from torchrelay.shared import clock
from torchrelay.worker.launcher import launcher_protocol as protocol

#: How long a launcher may take to obey an order; before its first answer it may still be importing torch.
ANSWER_LIMIT_S = 5.0
FIRST_ANSWER_LIMIT_S = 120.0


class Launcher:
    """A fork server process, `python -m torchrelay.worker.launcher`, that ends when this object is closed.

    It imports modules first, which takes seconds; orders that are sent meanwhile wait in the socket.
    """

    def __init__(self, variables: Mapping[str, str], preload: Sequence[str]) -> None:
        """Start it with these variables as its whole environment; workers share the modules of `preload`."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # -P: what lies in the folder the node was started in is none of a handler's modules.
            arguments = [str(theirs.fileno()), str(os.getpid()), *preload]
            command = [sys.executable, "-P", "-m", "torchrelay.worker.launcher", *arguments]
            # In a process group of its own: it survives a kill of the node's group, and ends the workers.
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=variables, process_group=0
            )
        #: Worker id -> pid of the workers that it has forked and not reported as exited.
        self._pids: dict[int, int] = {}
        #: (whether it is to end, worker id) of what it has not reported yet -> when that was ordered.
        self._ordered: dict[tuple[bool, int], float] = {}
        self._has_answered = False

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def hangs(self, now: float) -> bool:
        """Tell whether an order has not been obeyed for too long, and no report waits to be read."""
        limit_s = ANSWER_LIMIT_S if self._has_answered else FIRST_ANSWER_LIMIT_S
        is_late = now - min(self._ordered.values(), default=now) > limit_s
        return is_late and not select.select([self._socket], [], [], 0)[0]

    @property
    def fd(self) -> int:
        """An fd that is readable when there is a report, or the launcher is gone."""
        return self._socket.fileno()

    def fork(self, spec: protocol.WorkerSpec, stdout_fd: int, stderr_fd: int, status_fd: int) -> None:
        """Order a worker; the launcher gets its own copies of the fds. Raises OSError if that fails."""
        spec_fd = protocol.write_spec(spec)
        order = msgspec.json.encode(protocol.Fork(spec.start.worker_id))
        self._ordered[False, spec.start.worker_id] = clock.monotonic()
        try:
            # A launcher that is gone shows at `fd`, and its orders with it.
            with contextlib.suppress(BrokenPipeError):
                socket.send_fds(self._socket, [order], [spec_fd, stdout_fd, stderr_fd, status_fd])
        finally:
            os.close(spec_fd)

    def signal(self, worker_id: int, number: int) -> None:
        """Order a signal; for a worker that has ended nothing happens."""
        if number == signal.SIGKILL and worker_id in self._pids:
            self._ordered.setdefault((True, worker_id), clock.monotonic())
        with contextlib.suppress(BrokenPipeError):
            self._socket.send(msgspec.json.encode(protocol.Signal(worker_id, number)))

    def report(self) -> protocol.Report | None:
        """Read the next report, or None if the launcher is gone; call it when `fd` is readable."""
        try:
            packet = self._socket.recv(protocol.PACKET_LIMIT_BYTES)
        except ConnectionResetError:
            packet = b""
        report = msgspec.json.decode(packet, type=protocol.Report) if packet else None
        self._has_answered = True
        match report:
            case protocol.Forked(worker_id, pid):
                self._ordered.pop((False, worker_id), None)
                self._pids[worker_id] = pid
            case protocol.Exited(worker_id):
                self._ordered.pop((False, worker_id), None)
                self._ordered.pop((True, worker_id), None)
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
