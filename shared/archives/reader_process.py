"""Reads archives: forks a process for each, which has bounds of memory and time, and tells how it ended.

`python -m torchrelay.shared.archives.reader_process FD`, where FD is one end of a socket pair that an
ArchiveReader holds. Nothing of an archive is read in this process; when the reader goes, its end closes, and
this one ends with all that it has forked. PERF: a fork took 4 ms, a new interpreter with these modules 120.
"""

import errno
import gc
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from types import TracebackType

import msgspec
import yaml  # noqa: F401  # here once, not in every fork

from torchrelay.shared.archives import archive_survey, model_archive, workflow_archive
from torchrelay.shared.archives import reader_protocol as protocol
from torchrelay.shared.errors import RelayError
from torchrelay.shared.processes.fork_server import ForkServer, inherited_socket


class ArchiveForkServer(ForkServer[tuple[protocol.Order, int]]):
    """Forks a process for each order, whose work is the order and an fd for the answer.

    It writes below that answer how the process ended.
    """

    packet_limit_bytes = protocol.PACKET_LIMIT_BYTES
    fds_per_packet = 1

    def __init__(self, orders: socket.socket) -> None:
        super().__init__(orders)
        #: Processes, and where their answers go.
        self._answers: dict[int, int] = {}

    def _obey(self, packet: bytes, fds: list[int]) -> tuple[protocol.Order, int] | None:
        order = msgspec.json.decode(packet, type=protocol.Order)
        [answer_fd] = fds
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            refused = protocol.SystemRefused(error.errno or 0, str(error.strerror), "")
            _write(answer_fd, _line(refused) + _line(protocol.Ended(0)))
            os.close(answer_fd)
            return None
        if pid:
            self._answers[pid] = answer_fd
            return None
        self._be_forked(parent)
        for other in self._answers.values():
            os.close(other)
        return order, answer_fd

    def _reap(self) -> None:
        for pid, answer_fd in list(self._answers.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._answers[pid]
                _write(answer_fd, _line(protocol.Ended(os.waitstatus_to_exitcode(status))))
                os.close(answer_fd)


def answer(work: protocol.Work) -> protocol.Answer:
    """Do the work of an order; return its result, or the error that it raised."""
    try:
        return protocol.Done(msgspec.Raw(msgspec.json.encode(_do(work))))
    except MemoryError:
        return protocol.MemoryExhausted()
    except RelayError as error:
        cause = error.__cause__
        number = cause.errno if isinstance(cause, OSError) else 0
        if number == errno.ENOMEM:
            return protocol.MemoryExhausted()
        return protocol.ArchiveRefused(error.name, error.message, error.details, number or 0)
    except OSError as error:
        return protocol.SystemRefused(
            error.errno or 0, str(error.strerror or error), str(error.filename or "")
        )


def _do(work: protocol.Work) -> object:
    path = Path(os.fsdecode(work.path))
    match work:
        case protocol.Inspect():
            return model_archive.inspect(path)
        case protocol.InspectFolder():
            root, info = model_archive.inspect_folder(path, is_inner_meant=work.is_inner_meant)
            return os.fsencode(root), info
        case protocol.SurveyFiles():
            return archive_survey.survey(path)
        case protocol.InspectWorkflow():
            return workflow_archive.inspect(path)
        case protocol.Extract():
            model_archive.extract(path, Path(os.fsdecode(work.into)))
        case protocol.Measure():
            return model_archive.unpacked_bytes(path)
        case protocol.Pack():
            targets = [Path(os.fsdecode(target)) for target in work.link_targets]
            model_archive.pack_folder(path, Path(os.fsdecode(work.target)), targets)
    return None


def bound(order: protocol.Order) -> None:
    """Bound this process; the kernel ends it where it takes more time."""
    resource.setrlimit(resource.RLIMIT_AS, (order.memory_bytes, order.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (order.cpu_s, order.cpu_s + 1))  # SIGXCPU, then SIGKILL
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_REAL, order.wall_s)


def _line(entry: object) -> bytes:
    """Write JSON, which has no newline of its own here."""
    return msgspec.json.encode(entry) + b"\n"


def _write(fd: int, data: bytes) -> None:
    """Write all; a reader that has given up reads nothing."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        return


def main() -> int:
    """Serve forks; in each forked process, do its work."""
    orders = inherited_socket(int(sys.argv[1]))
    gc.freeze()  # what is here is looked at by no fork's collector, and so stays shared
    work = ArchiveForkServer(orders).serve()
    if work is None:
        os._exit(0)  # what it has forked is ended by the kernel
    order, answer_fd = work

    def report(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        _write(answer_fd, _line(protocol.Unforeseen(model_archive.one_line(error))))
        os._exit(0)

    sys.excepthook = report
    bound(order)
    _write(answer_fd, _line(answer(order.work)))
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
