"""What can happen to the broker: messages from peers, results of the work it gave to threads, start, stop."""

from dataclasses import dataclass

import msgspec

from torchrelay.broker.models.records import Prepared, PreparedWorkflow
from torchrelay.shared.errors import RelayError
from torchrelay.shared.settings import LoadAtStart, StartupModel
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame


class Received(msgspec.Struct, frozen=True, gc=False):
    """A peer's message, decoded; `epoch` is the one the peer believes in. PERF: see `effects.Send`."""

    peer: bytes
    message: m.Message
    epoch: int
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True)
class Garbled:
    """Bytes from a peer that were no message."""

    peer: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A message to the peer found no connection."""

    peer: bytes
    message: m.Message


@dataclass(frozen=True, slots=True)
class Unsendable:
    """A message to the peer could not be written, and would not be another time."""

    peer: bytes
    message: m.Message
    reason: str


@dataclass(frozen=True, slots=True)
class ArchivePrepared:
    """The work of effect Prepare is done."""

    token: int
    outcome: Prepared | RelayError


@dataclass(frozen=True, slots=True)
class WorkflowPrepared:
    """The work of effect PrepareWorkflow is done."""

    token: int
    outcome: PreparedWorkflow | RelayError


@dataclass(frozen=True, slots=True)
class Stored:
    """The work of effect Store, KeepKeys or WriteSnapshot is done: it is on disk, or `error` says why not."""

    token: int
    error: RelayError | None


@dataclass(frozen=True, slots=True)
class ChunkRead:
    """The work of effect ReadChunk is done; `data` None means that there is no such archive."""

    peer: bytes
    archive: str
    offset: int
    total_bytes: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Started:
    """The broker has started; these models of its settings or of a snapshot are to be loaded."""

    loads: tuple[LoadAtStart | StartupModel, ...]


@dataclass(frozen=True, slots=True)
class MetricsNotWritten:
    """So many lines of effect WriteMetrics were dropped, since the log is behind."""

    lines: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """The broker was told to stop: what runs may end, and nothing else begins."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The broker stops: this is its last turn."""


Own = (
    ArchivePrepared | WorkflowPrepared | Stored | ChunkRead | Started | MetricsNotWritten | Leaving | Stopping
)
Event = Received | Garbled | Unreachable | Unsendable | Own
