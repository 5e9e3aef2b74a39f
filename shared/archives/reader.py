"""Has archives read by processes of their own: what is in them costs the server neither memory nor time.

`model_archive` says what is read and how; this says where, and what it may take. Any thread may ask,
and waits.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from torchrelay.shared import errors
from torchrelay.shared.archives import reader_protocol as protocol
from torchrelay.shared.archives.archive_survey import Survey
from torchrelay.shared.archives.model_archive import ArchiveInfo
from torchrelay.shared.archives.workflow_archive import WorkflowInfo
from torchrelay.shared.settings import ARCHIVE_MEMORY_LIMIT_BYTES, ARCHIVE_TIME_LIMIT_S, environment

logger = logging.getLogger(__name__)

#: What is added to the time for each byte of an archive: old disks and networks read ten times as much.
SLOWEST_BYTES_PER_S = 2 << 20
#: A process that has no cpu to itself needs a multiple of its time.
WALL_FACTOR = 5
#: How long the process that forks may take to end before it is killed.
CLOSE_S = 1.0
_CHUNK_BYTES = 1 << 16
#: Of the environment, what an interpreter needs; the rest may hold secrets.
_VARIABLES = (
    "PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "LANG",
    "LC_ALL",
    "TMPDIR",
)

ValueT = TypeVar("ValueT")


class ArchiveReader:
    """Reads archives in processes that may take so much; `close` ends all of them."""

    def __init__(
        self, time_limit_s: float = ARCHIVE_TIME_LIMIT_S, memory_limit_bytes: int = ARCHIVE_MEMORY_LIMIT_BYTES
    ) -> None:
        self._time_limit_s = time_limit_s
        self._memory_limit_bytes = memory_limit_bytes
        #: Held while the process that forks is started, or ended.
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        #: Where answers are waited for.
        self.waiting: set[socket.socket] = set()
        self._is_closed = False

    @property
    def process_id(self) -> int | None:
        """The process that forks; it is started with the first archive."""
        return self._process.pid if self._process is not None else None

    def inspect(self, path: Path) -> ArchiveInfo:
        """Do what `model_archive.inspect` does; raises the same, and InvalidModel where it takes too much."""
        return self._ask(protocol.Inspect(_bytes(path)), _size(path), ArchiveInfo)

    def inspect_folder(self, folder: Path, *, is_inner_meant: bool = True) -> tuple[Path, ArchiveInfo]:
        """Do what `model_archive.inspect_folder` does."""
        work = protocol.InspectFolder(_bytes(folder), is_inner_meant)
        root, info = self._ask(work, 0, tuple[bytes, ArchiveInfo])
        return Path(os.fsdecode(root)), info

    def survey(self, path: Path) -> Survey:
        """Do what `archive_survey.survey` does."""
        return self._ask(protocol.SurveyFiles(_bytes(path)), _size(path), Survey)

    def inspect_workflow(self, path: Path) -> WorkflowInfo:
        """Do what `workflow_archive.inspect` does; raises as `inspect` does where it takes too much."""
        return self._ask(protocol.InspectWorkflow(_bytes(path)), _size(path), WorkflowInfo)

    def extract(self, path: Path, into: Path, *, called: str = "") -> None:
        """Do what `model_archive.extract` does; errors name the archive as `called`."""
        try:
            self._ask(protocol.Extract(_bytes(path), _bytes(into)), _size(path), type(None))
        except errors.StoreFailed as error:
            if not called:
                raise
            raise errors.StoreFailed(f"Failed to save model: {called}", error.details) from error.__cause__

    def unpacked_bytes(self, path: Path) -> int:
        """Do what `model_archive.unpacked_bytes` does."""
        return self._ask(protocol.Measure(_bytes(path)), _size(path), int)

    def pack_folder(self, folder: Path, target: Path, link_targets: Sequence[Path] = ()) -> None:
        """Do what `model_archive.pack_folder` does; the folder may fill `target`'s disk."""
        targets = tuple(_bytes(place) for place in link_targets)
        free_bytes = os.statvfs(target.parent).f_bavail * os.statvfs(target.parent).f_frsize
        self._ask(protocol.Pack(_bytes(folder), _bytes(target), targets), free_bytes, type(None))

    def close(self) -> None:
        """End all that is being read; who waits for it is told so."""
        with self._lock:
            self._is_closed = True
            process, self._process = self._process, None
            if self._socket is not None:
                self._socket.close()
            for answer in self.waiting:
                answer.shutdown(socket.SHUT_RD)
        if process is not None:
            _end(process)

    def _ask(self, work: protocol.Work, size: int, kind: type[ValueT]) -> ValueT:
        cpu_s = int(self._time_limit_s + size / SLOWEST_BYTES_PER_S) + 1
        order = protocol.Order(work, cpu_s, cpu_s * WALL_FACTOR, self._memory_limit_bytes)
        mine, theirs = socket.socketpair()
        with mine:
            with theirs:
                self._send(msgspec.json.encode(order), theirs, mine)
            try:
                answer = _read_all(mine)
            finally:
                with self._lock:
                    self.waiting.discard(mine)
        if self._is_closed:
            raise errors.ServiceUnavailable("The server stops.")
        return _value(order, answer, kind)

    def _send(self, order: bytes, answer: socket.socket, waiting: socket.socket) -> None:
        with self._lock:
            if self._is_closed:
                raise errors.ServiceUnavailable("The server stops.")
            self.waiting.add(waiting)
            if self._process is not None and self._socket is not None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    socket.send_fds(self._socket, [order], [answer.fileno()])
                    return
                self._socket.close()  # somebody has killed it
                _end(self._process)
            self._process, self._socket = _start()
            socket.send_fds(self._socket, [order], [answer.fileno()])


def _value(order: protocol.Order, answer: bytes, kind: type[ValueT]) -> ValueT:
    """Return what was read, or raise why it was not."""
    *found, last = answer.splitlines() or [b""]
    try:
        code = msgspec.json.decode(last, type=protocol.Ended).code
    except msgspec.DecodeError as error:
        reason = (
            "it says too much" if len(answer) > protocol.ANSWER_LIMIT_BYTES else "what reads it was killed"
        )
        raise errors.StoreFailed("The archive could not be read.", reason) from error
    if code or len(found) != 1:
        raise errors.InvalidModel(_why_ended(order, code))
    try:
        outcome: protocol.Answer = msgspec.json.decode(found[0], type=protocol.Answer)
        if isinstance(outcome, protocol.Done):
            return msgspec.json.decode(outcome.value, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.InvalidModel(f"What the archive says can't be read: {error}.") from error
    match outcome:
        case protocol.ArchiveRefused(name, message, details, number):
            cause = OSError(number, os.strerror(number)) if number else None
            raise errors.rebuild(name, message, details) from cause
        case protocol.SystemRefused(number, reason, file):
            raise OSError(number, reason, file or None)
        case protocol.MemoryExhausted():
            raise errors.InvalidModel(_too_much_memory(order))
        case protocol.Unforeseen(reason):
            logger.warning("archive.not_read", extra={"reason": reason})
            raise errors.InvalidModel(f"The archive can't be read: {reason}.")


def _why_ended(order: protocol.Order, code: int) -> str:
    if code == -signal.SIGXCPU:
        return f"The archive can't be read: inspecting it took more than {order.cpu_s} s of cpu time."
    if code == -signal.SIGALRM:
        return f"The archive can't be read: inspecting it took more than {order.wall_s} s."
    if code == -signal.SIGKILL:  # the host ran out of memory before the bound was reached
        return _too_much_memory(order)
    return f"The archive can't be read: inspecting it ended with {code}."


def _too_much_memory(order: protocol.Order) -> str:
    return (
        f"The archive can't be read: inspecting it took more than {order.memory_bytes >> 20} MiB of memory."
    )


def _read_all(answer: socket.socket) -> bytes:
    """Read to the end, or a little more than an answer may have."""
    data = bytearray()
    while len(data) <= protocol.ANSWER_LIMIT_BYTES and (part := answer.recv(_CHUNK_BYTES)):
        data += part
    return bytes(data)


def _start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    variables = {name: value for name, value in environment().items() if name in _VARIABLES}
    # -P: what lies in the folder that this was started in is none of its modules.
    command = [sys.executable, "-P", "-m", "torchrelay.shared.archives.reader_process", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            env=variables, process_group=0,
        )  # fmt: skip
    return process, mine


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _bytes(path: Path) -> bytes:
    """Name a path as the other process has to: its working directory may be another."""
    return os.fsencode(path.absolute())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
