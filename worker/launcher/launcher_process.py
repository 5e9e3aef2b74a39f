"""The fork server: imports torch once, then forks a worker in milliseconds whenever its node asks.

`python -m torchrelay.worker.launcher FD PID`: FD is one end of a socket pair that its node, PID, holds. The
node's first packet names the modules, torch unless the settings say otherwise, that are imported before
anything is forked. It runs one thread, no CUDA call, and of torch no more than loads one number, so that its
children start clean. When the node goes, its end of the pair closes, and the launcher kills all workers, with
all that they have started, and ends.
"""

import contextlib
import errno
import importlib
import io
import os
import signal
import socket
import sys
from types import ModuleType

import msgspec
import psutil
from setproctitle import setproctitle

from torchrelay.shared.containment import first_fault
from torchrelay.shared.processes.fork_server import GroupForkServer, heed_signals, inherited_socket
from torchrelay.shared.processes.lasting_imports import lasting_imports
from torchrelay.shared.processes.parent_death import adopt_orphans, die_with_parent, outlive_parent
from torchrelay.worker.common.handler_errors import one_line
from torchrelay.worker.launcher import launcher_protocol as protocol
from torchrelay.worker.launcher import own_interpreter

#: Imported with torch, since most handlers subclass it. PERF: it took each worker 16 ms and 1.3 MB.
_BASE_HANDLER = "ts.torch_handler.base_handler"
#: What is killed may have started something in its last moment, which is looked for again.
_ROUNDS, _ROUND_S = 4, 0.2


class Child(msgspec.Struct, frozen=True):
    """What a forked process needs to be its worker."""

    spec: protocol.WorkerSpec
    status_fd: int


class WorkerForkServer(GroupForkServer[int, Child]):
    """Forks workers, signals them, and reports their ends."""

    packet_limit_bytes = protocol.PACKET_LIMIT_BYTES
    #: A worker's spec, and the pipes for its stdout, stderr and status.
    fds_per_packet = 4

    def _obey(self, packet: bytes, fds: list[int]) -> Child | None:
        order = msgspec.json.decode(packet, type=protocol.Order)
        if isinstance(order, protocol.Fork):
            return self._fork(order.worker_id, fds)
        self._signal(order.worker_id, order.number)
        return None

    def _fork(self, worker_id: int, fds: list[int]) -> Child | None:
        spec_fd, stdout_fd, stderr_fd, status_fd = fds
        failure = None
        try:
            pid = self._fork_group(worker_id)
        except OSError as error:
            pid, failure = -1, error
        if pid == 0:
            _be_a_worker(stdout_fd, stderr_fd)
            spec = protocol.read_spec(spec_fd)
            if spec.interpreter:
                own_interpreter.become(spec, status_fd)
            start = spec.start
            setproctitle(f"torchrelay worker {worker_id} {start.model} {start.version}")
            return Child(spec, status_fd)
        if failure is not None:  # there is no memory or number for one more; the others live on
            reason = f"no process can be started: {failure.strerror}"
            os.write(
                status_fd, msgspec.json.encode(protocol.LastWords(reason, failure.errno == errno.ENOMEM))
            )
        for fd in fds:
            os.close(fd)
        self.tell(protocol.Exited(worker_id, 1, None) if failure else protocol.Forked(worker_id, pid))
        return None

    def _tell_end(self, worker_id: int, code: int) -> None:
        self.tell(protocol.Exited(worker_id, code if code >= 0 else None, -code if code < 0 else None))

    def _reap(self) -> None:
        """Collect the workers that ended, and what they left behind and has ended since."""
        super()._reap()
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid in self._pids.values():
                return
            os.waitpid(ended.si_pid, 0)

    def end_all(self) -> None:
        """End the workers and all that they have started, in whatever session it is by now."""
        # All are killed before one is waited for: a driver may keep that one for a while.
        for pid in self._pids.values():
            os.killpg(pid, signal.SIGKILL)
        for pid in self._pids.values():
            os.waitpid(pid, 0)
        for _ in range(_ROUNDS):
            left = psutil.Process().children(recursive=True)
            if not left:
                return
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=_ROUND_S)

    def tell(self, report: protocol.Report) -> None:
        """Tell the node something."""
        self._tell(msgspec.json.encode(report))


def _be_a_worker(stdout_fd: int, stderr_fd: int) -> None:
    """Give a forked process a worker's own output, and its handling of signals."""
    heed_signals()
    for stream, fd in ((sys.stdout, stdout_fd), (sys.stderr, stderr_fd)):
        os.dup2(fd, stream.fileno())
        os.close(fd)
        # What a handler prints is in the log line by line, also when it is killed.
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # typeshed: TextIO has it not


def _preload(node: socket.socket) -> list[protocol.NotPreloaded]:
    """Import what workers are to share; return what can't be: a worker that needs it fails by itself."""
    packet = node.recv(protocol.PRELOAD_LIMIT_BYTES)
    if not packet:
        os._exit(0)  # the node is gone
    failed = []
    coming = iter(msgspec.json.decode(packet, type=protocol.Preload).modules)
    while fault := first_fault(coming, importlib.import_module):
        module, error = fault
        failed.append(protocol.NotPreloaded(module, one_line(error)))
    if torch := sys.modules.get("torch"):
        # A handler that needs either and can't have it fails by itself.
        first_fault(iter((_BASE_HANDLER,)), importlib.import_module)
        first_fault(iter((torch,)), _load_something)
    return failed


def _load_something(torch: ModuleType) -> None:
    """Have workers share what `torch.load` imports and sets up at its first call.

    PERF: it took each worker 1.3 MB, of which 0.7 for an import.
    """
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(1)}, file)
    file.seek(0)
    torch.load(file, weights_only=True)


def run(node: socket.socket, node_pid: int) -> int:
    """Serve forks; in each forked process, be a worker, and return its exit code."""
    # While it imports it doesn't hear that its node is gone; later it has workers to see to first.
    die_with_parent(node_pid)
    setproctitle("torchrelay launcher")
    # `ts`, which handlers import, comes from here, also where TorchServe itself is installed.
    sys.path.insert(0, str(own_interpreter.COMPAT))
    with lasting_imports():
        from torchrelay.worker.model import (
            loaded_torch,
            loading,
            process,
        )  # with all that a worker needs, once

        failed = _preload(node)
    if loaded_torch.is_cuda_initialized():
        sys.exit("what is preloaded uses a GPU while it is imported, and so no worker could use it")
    outlive_parent()
    # A handler's child in a session of its own is not of its worker's group, and would outlive us.
    adopt_orphans()
    server = WorkerForkServer(node)
    ours = loading.our_modules()
    process.log_information()
    for report in failed:
        server.tell(report)
    child = server.serve()
    if child is None:
        server.end_all()
        os._exit(0)  # PERF: nothing is left to clean up, and tearing torch down took 0.7 s
    return process.run(child.spec, child.status_fd, ours)


def main() -> int:
    """Run as a command."""
    return run(inherited_socket(int(sys.argv[1])), int(sys.argv[2]))
