"""What the core wants done: messages to send, and blocking work for threads."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from torchrelay.broker.core.keyring import IssuedKeys
from torchrelay.broker.core.torchserve_metrics import Line
from torchrelay.broker.models.origins import Origin
from torchrelay.broker.models.records import Change
from torchrelay.shared.settings import StartupModel
from torchrelay.shared.torchserve.snapshot_files import Kind
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame
from torchrelay.shared.wire.curve import KeyPair


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send a message and its frames to a peer; a peer that isn't there comes back as Unreachable.

    PERF: a struct, as each message makes one; a frozen dataclass sets its fields one by one, in Python.
    """

    peer: bytes
    message: m.Message
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepare:
    """Fetch, hash, check and keep an archive; answered by ArchivePrepared."""

    token: int
    origin: Origin
    s3_sse_kms: bool = False
    #: Whether its workers start at once, before its file is likely to change.
    is_wanted_now: bool = False


@dataclass(frozen=True, slots=True)
class PrepareWorkflow:
    """Fetch, check and keep an archive of a workflow; answered by WorkflowPrepared."""

    token: int
    origin: Origin
    s3_sse_kms: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """Write a change to the registry; answered by Stored once it is durable."""

    token: int
    change: Change


@dataclass(frozen=True, slots=True)
class KeepKeys:
    """Make access keys durable and write the key file; answered by Stored."""

    token: int
    made: IssuedKeys


@dataclass(frozen=True, slots=True)
class KeepBrokerKeys:
    """Write the broker's own key pairs to its file, the present one and the next; answered by Stored."""

    token: int
    present: KeyPair
    next: KeyPair


@dataclass(frozen=True, slots=True)
class Cut:
    """End the connections of whoever has come by this public key."""

    public_key: str


@dataclass(frozen=True, slots=True)
class ShareMemory:
    """Take in what a gateway or worker says about memory of its host."""

    peer: bytes
    message: m.OfferMemory | m.ReadsMemory


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """Read part of an archive for a node; answered by ChunkRead."""

    peer: bytes
    archive: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class DropArchive:
    """Delete an archive, and what was fetched from `origin`; "" and None stand for what is still used."""

    archive: str
    origin: Origin | None
    #: Whether the origin is a workflow's, which are fetched to a store of their own.
    is_workflow: bool = False


@dataclass(frozen=True, slots=True)
class WriteSnapshot:
    """Write a snapshot of these models for TorchServe, or for a start of ours elsewhere; then Stored."""

    #: 0 if nobody waits for it.
    token: int
    kind: Kind
    models: tuple[StartupModel, ...]


@dataclass(frozen=True, slots=True)
class WriteMetrics:
    """Append lines to TorchServe's metrics logs."""

    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Write a line to the log: an event name of ours and its facts."""

    level: int
    event: str
    facts: dict[str, object]


#: What is answered by Stored.
Durable = Store | KeepKeys | KeepBrokerKeys | WriteSnapshot
Effect = (
    Send | Durable | Prepare | PrepareWorkflow | Cut | ShareMemory | ReadChunk | DropArchive | WriteMetrics
    | Report
)  # fmt: skip


class Outbox:
    """The effects of the current turn."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    def emit(self, effect: Effect) -> None:
        """Add an effect behind those before it."""
        self._effects.append(effect)

    def send(self, peer: bytes, message: m.Message, frames: Sequence[Frame] = ()) -> None:
        """Send a message to a peer."""
        self._effects.append(Send(peer, message, tuple(frames)))

    def report(self, level: int, event: str, **facts: object) -> None:
        """Write a line to the log: an event name of ours and its facts."""
        self._effects.append(Report(level, event, facts))

    def take(self) -> list[Effect]:
        """Return the effects since the last call."""
        effects, self._effects = self._effects, []
        return effects
