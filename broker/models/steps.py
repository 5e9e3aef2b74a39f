"""Where each change of models and keys stands: its steps as values, which can be printed. Pure.

A change takes its steps as events come back: the archive is prepared by a thread, the change is made durable
by another, only then does it show in the catalog. A caller that wants to wait is answered once its workers
are there, or gone. What is done at each step is in the module of its kind of change.
"""

from dataclasses import dataclass

from torchrelay.broker.core.keyring import IssuedKeys
from torchrelay.broker.models.catalog import Key
from torchrelay.broker.models.records import Prepared, VersionRecord
from torchrelay.shared.errors import RelayError
from torchrelay.shared.settings import StartupModel
from torchrelay.shared.torchserve.snapshot_files import Kind
from torchrelay.shared.wire import messages as m

#: The gateway that asked, and under which number.
Caller = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class Preparing:
    """An archive is being fetched and checked for a registration."""

    #: None at start, where nobody asks.
    caller: Caller | None
    ask: m.RegisterModel
    #: What a snapshot says of the version.
    restored: StartupModel | None = None
    #: At start: what came of it, while archives before it are still being prepared.
    outcome: Prepared | RelayError | None = None


@dataclass(frozen=True, slots=True)
class Registering:
    """A version is being stored, in place of another one if its archive has changed since the last start."""

    begun: Preparing
    record: VersionRecord
    prepared: Prepared
    replaced: VersionRecord | None

    @property
    def key(self) -> Key:
        """The version, which nobody else may register meanwhile."""
        return self.record.model, self.record.version


@dataclass(frozen=True, slots=True)
class RestoringDefault:
    """A version that was registered from a snapshot is being stored as the default."""

    begun: Preparing
    key: Key


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many workers a version shall have is being stored."""

    caller: Caller
    ask: m.ScaleWorkers
    record: VersionRecord


@dataclass(frozen=True, slots=True)
class SettingDefault:
    """A version is being stored as the default."""

    caller: Caller
    ask: m.SetDefault


@dataclass(frozen=True, slots=True)
class Removing:
    """A version is being removed from the registry."""

    caller: Caller
    ask: m.UnregisterModel
    record: VersionRecord


@dataclass(frozen=True, slots=True)
class RollingBack:
    """A version whose workers did not start is being removed from the registry; then `error` is told."""

    caller: Caller
    record: VersionRecord
    error: RelayError


@dataclass(frozen=True, slots=True)
class Renewing:
    """Keys are being stored, and the key file written."""

    caller: Caller
    ask: m.RenewKey
    made: IssuedKeys


@dataclass(frozen=True, slots=True)
class WritingSnapshot:
    """A snapshot is being written; then the caller, if there is one, is answered."""

    kind: Kind
    caller: Caller | None = None
    reply: m.Message | None = None


@dataclass(frozen=True, slots=True)
class RememberingNodes:
    """Names of nodes are being stored for the next start."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AwaitingRenewal:
    """A renewal of keys waits for the one before it to be stored."""

    caller: Caller
    ask: m.RenewKey


@dataclass(frozen=True, slots=True)
class AwaitingWorkers:
    """A caller is answered once a version has what it asked for."""

    caller: Caller
    key: Key
    reply: m.ModelRegistered | m.WorkersScaled
    failed_text: str
    #: A registration whose workers fail is taken back, as in TorchServe.
    rolls_back: bool
    deadline: float
    #: It is answered as soon as what the archive requires is installed.
    for_install: bool = False


@dataclass(frozen=True, slots=True)
class AwaitingExits:
    """A caller is answered once the workers of what it unregistered are gone."""

    caller: Caller
    ask: m.UnregisterModel
    worker_ids: frozenset[int]
    deadline: float


#: Steps that end when something has been stored.
Storing = (
    Registering
    | RestoringDefault
    | Scaling
    | SettingDefault
    | Removing
    | RollingBack
    | Renewing
    | WritingSnapshot
    | RememberingNodes
)
Step = Preparing | Storing | AwaitingRenewal | AwaitingWorkers | AwaitingExits
