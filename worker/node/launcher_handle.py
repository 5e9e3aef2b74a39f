"""The node's end of the launcher: starts the fork server, sends it orders, reads its reports."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import msgspec
import psutil

from torchrelay.shared import clock
from torchrelay.shared.processes.fork_server import inherited_socket
from torchrelay.worker.launcher import launcher_protocol as protocol

#: How long a launcher that has orders may obey none; before its first answer it may still be importing torch.
ANSWER_LIMIT_S = 5.0
FIRST_ANSWER_LIMIT_S = 120.0


class Launcher:
    """A fork server of workers, that ends when this object is closed.

    It imports modules first, which takes seconds; orders that are sent meanwhile wait in the socket.
    """

    def __init__(self, start: Callable[[socket.socket, socket.socket], psutil.Process]) -> None:
        """Have `start`, which is `executed` or `forked`, make its process, given both ends of the pair."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = start(self._socket, theirs)
        #: Worker id -> pid of the workers that it has forked and not reported as exited.
        self._pids: dict[int, int] = {}
        #: (whether it is to end, worker id) of what it has not reported yet -> when that was ordered.
        self._ordered: dict[tuple[bool, int], float] = {}
        #: When its last report was read.
        self._heard_at: float | None = None

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def hangs(self, now: float) -> bool:
        """Tell whether there are orders and none was obeyed for too long, and no report waits to be read."""
        waits_since = min(self._ordered.values(), default=now)
        if self._heard_at is None:
            is_late = now - waits_since > FIRST_ANSWER_LIMIT_S
        else:  # of many orders the last waits for long, on a busy machine
            is_late = now - max(waits_since, self._heard_at) > ANSWER_LIMIT_S
        return is_late and not select.select([self._socket], [], [], 0)[0]

    @property
    def fd(self) -> int:
        """An fd that is readable when there is a report, or the launcher is gone."""
        return self._socket.fileno()

    def preload(self, modules: Sequence[str]) -> None:
        """Say, before anything else, which modules workers share."""
        # A launcher that is gone shows at `fd`.
        with contextlib.suppress(BrokenPipeError):
            self._socket.send(msgspec.json.encode(protocol.Preload(tuple(modules))))

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
        self._heard_at = clock.monotonic()
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
        except psutil.TimeoutExpired:
            # It is still importing, or stuck.
            self._process.kill()
            exit_code = self._process.wait()
        if exit_code:  # it could not end them
            for pid in self._pids.values():
                # As long as a group has members, its number is given to no one else.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
        return exit_code


def executed(variables: Mapping[str, str], _ours: socket.socket, theirs: socket.socket) -> psutil.Process:
    """Start a launcher as a program with these variables as its whole environment."""
    # -P: what lies in the folder the node was started in is none of a handler's modules.
    command = [
        sys.executable,
        "-P",
        "-m",
        "torchrelay.worker.launcher",
        str(theirs.fileno()),
        str(os.getpid()),
    ]
    # In a process group of its own: it survives a kill of the node's group, and ends the workers.
    return psutil.Popen(
        command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=variables, process_group=0
    )


def forked(ours: socket.socket, theirs: socket.socket) -> psutil.Process:
    """Fork a launcher from this process, whose environment and memory workers may see.

    PERF: what is loaded already lies at the same addresses in the other processes of the server; see
    `cli/start/part_forks.py`.
    """
    node_pid = os.getpid()
    pid = os.fork()
    if pid:
        return psutil.Process(pid)
    os.setpgid(0, 0)
    ours.close()  # it is to see when its node has closed it
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    from torchrelay.worker.launcher import launcher_process

    sys.exit(launcher_process.run(inherited_socket(theirs.detach()), node_pid))
