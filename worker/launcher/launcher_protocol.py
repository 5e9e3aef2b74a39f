"""What a node and its launcher tell each other over their socket pair, as JSON.

Each message is one packet, and the first is `Preload`. `Fork` brings four fds with it: a file with the
worker's spec, which may be of any size, and pipes for the worker's stdout, its stderr and its last words.
"""

import os
from typing import Literal, NamedTuple

import msgspec

from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.redial_policy import BrokerPlace

#: Of packets with numbers alone in them.
PACKET_LIMIT_BYTES = 4096
#: Of the one with the names of modules.
PRELOAD_LIMIT_BYTES = 1 << 16


class SequenceHeaders(NamedTuple):
    """Names of the headers by which server and handler speak about sequences."""

    id: str = "ts_request_sequence_id"
    start: str = "ts_request_sequence_start"
    end: str = "ts_request_sequence_end"


class WorkerSpec(msgspec.Struct, frozen=True):
    """All that a worker process needs to know; `threads` are torch's on the cpu, 0 for what it finds itself.

    `variables` are added to its environment. With an `interpreter` it is a process of that, which finds
    what lies in the folder `packages` first; without one it is a fork of the launcher. By what is in
    `broker_keys_file` its node knows the broker; a broker that asks for no key needs none.
    """

    start: m.StartWorker
    node: str
    broker: BrokerPlace
    model_dir: str
    threads: int
    sequence_headers: SequenceHeaders = SequenceHeaders()
    variables: dict[str, str] = {}
    interpreter: str = ""
    packages: str = ""
    broker_keys_file: str = ""


def write_spec(spec: WorkerSpec) -> int:
    """Write a spec into a file that has no name; return its fd."""
    fd = os.memfd_create("spec")
    with open(fd, "wb", closefd=False) as file:
        file.write(msgspec.json.encode(spec))
    return fd


def read_spec(fd: int) -> WorkerSpec:
    """Read such a file; one process alone may, and closes it."""
    with open(fd, "rb") as file:
        file.seek(0)
        return msgspec.json.decode(file.read(), type=WorkerSpec)


class Preload(msgspec.Struct, frozen=True):
    """The first packet: what to import before anything is forked."""

    modules: tuple[str, ...]


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Start a worker."""

    worker_id: int


class Signal(msgspec.Struct, frozen=True, tag=True):
    """Send a signal to a worker; SIGKILL goes to everything that it started, too."""

    worker_id: int
    number: int


class Forked(msgspec.Struct, frozen=True, tag=True):
    """A worker process runs."""

    worker_id: int
    pid: int


class Exited(msgspec.Struct, frozen=True, tag=True):
    """A worker process is gone; one of `exit_code` and `signal` is set."""

    worker_id: int
    exit_code: int | None
    signal: int | None


class NotPreloaded(msgspec.Struct, frozen=True, tag=True):
    """A module that workers were to share can't be imported; they run without."""

    module: str
    reason: str


class LoadingPhase(msgspec.Struct, frozen=True, tag=True):
    """What is written into the status pipe of a worker that has loaded its model, and isn't ready yet."""

    phase: Literal["warming", "waiting"]


class LastWords(msgspec.Struct, frozen=True, tag=True):
    """What is written into the status pipe of a worker that could not be started, or load its model."""

    reason: str
    out_of_memory: bool


Order = Fork | Signal
Report = Forked | Exited | NotPreloaded
Status = LoadingPhase | LastWords
