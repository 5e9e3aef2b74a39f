"""The changes that are being made: the step that each is at, and the callers that wait for them. Pure.

A change takes its steps as events come back: the archive is prepared by a thread, the change is made durable
by another, only then does it show in the catalog. A caller that wants to wait is answered once its workers
are there, or gone. Steps are values, which can be printed; what is done at each is in the module of its kind
of change.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

from torchrelay.broker.core.effects import DropArchive, Effect, Send, Store, WriteSnapshot
from torchrelay.broker.core.keyring import IssuedKeys, Keyring
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.models.catalog import Catalog, Key
from torchrelay.broker.models.origins import parse
from torchrelay.broker.models.records import (
    Change,
    Prepared,
    PreparedWorkflow,
    VersionRecord,
    WorkflowRecord,
)
from torchrelay.shared import errors
from torchrelay.shared.settings import BrokerSettings, StartupModel
from torchrelay.shared.torchserve.snapshot_files import Kind
from torchrelay.shared.wire import messages as m

#: Changes that are being made at the same time: twice what one gateway may ask for.
CHANGES_LIMIT = 1024

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
    outcome: Prepared | errors.RelayError | None = None


@dataclass(frozen=True, slots=True)
class Registering:
    """A version, which nobody else may register meanwhile, is being stored.

    In place of another one if its archive has changed since the last start.
    """

    begun: Preparing
    record: VersionRecord
    prepared: Prepared
    replaced: VersionRecord | None


@dataclass(frozen=True, slots=True)
class PreparingWorkflow:
    """An archive of a workflow is being fetched and checked."""

    caller: Caller
    ask: m.RegisterWorkflow


@dataclass(frozen=True, slots=True)
class PreparingSteps:
    """The archives of a workflow's models are being fetched and checked; nobody else may take its name."""

    caller: Caller
    ask: m.RegisterWorkflow
    name: str
    prepared: PreparedWorkflow
    #: By their urls.
    outcomes: tuple[tuple[str, Prepared | errors.RelayError], ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the archives are, each once."""
        return tuple(dict.fromkeys(step.url for step in self.prepared.spec.steps if not step.is_function))


@dataclass(frozen=True, slots=True)
class PreparingStep:
    """One of these archives is; `workflow` is the token of that change."""

    workflow: int
    url: str


@dataclass(frozen=True, slots=True)
class RegisteringWorkflow:
    """A workflow with its steps' versions is being stored."""

    caller: Caller
    ask: m.RegisterWorkflow
    record: WorkflowRecord
    versions: tuple[VersionRecord, ...]


@dataclass(frozen=True, slots=True)
class RemovingWorkflow:
    """A workflow with its steps' versions is being removed; `error` is what ended its registration."""

    caller: Caller
    ask: m.RegisterWorkflow | m.UnregisterWorkflow
    record: WorkflowRecord
    error: errors.RelayError | None = None


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
    error: errors.RelayError


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
    deadline: float
    #: It is answered as soon as what the archive requires is installed.
    for_install: bool = False
    #: When it is refused if no node could hold a worker even without others.
    placed_by: float = inf


@dataclass(frozen=True, slots=True)
class AwaitingStepWorkers:
    """A caller is answered once all steps of a workflow have their workers; times as in AwaitingWorkers."""

    caller: Caller
    ask: m.RegisterWorkflow
    record: WorkflowRecord
    deadline: float
    placed_by: float


@dataclass(frozen=True, slots=True)
class AwaitingExits:
    """A caller is answered once the workers of what it unregistered, called `name`, are gone."""

    caller: Caller
    name: str
    reply: m.ModelUnregistered | m.WorkflowUnregistered
    worker_ids: frozenset[int]
    deadline: float


#: Steps that end when something has been stored.
Storing = (
    Registering
    | RegisteringWorkflow
    | RemovingWorkflow
    | RestoringDefault
    | Scaling
    | SettingDefault
    | Removing
    | RollingBack
    | Renewing
    | WritingSnapshot
    | RememberingNodes
)
#: Steps while which archives may come to be used that no version uses.
UsingArchives = (
    Preparing | PreparingWorkflow | PreparingSteps | PreparingStep | Registering | RegisteringWorkflow
)
Step = (
    Preparing
    | PreparingWorkflow
    | PreparingSteps
    | PreparingStep
    | Storing
    | AwaitingRenewal
    | AwaitingWorkers
    | AwaitingStepWorkers
    | AwaitingExits
)

StepT = TypeVar("StepT", bound=Step)


@dataclass(slots=True, eq=False, repr=False)
class RunningChanges:
    """What each kind of change shares: the table of steps, and answers to callers."""

    catalog: Catalog
    fleet: Fleet
    settings: BrokerSettings
    keys: Keyring
    #: Of the broker's start, so that a number that only this start gives is one of all.
    epoch: int
    emit: Callable[[Effect], None]
    tell_gateways: Callable[[m.Message], None]
    #: Begins changes of members and invitations, see `membership`.
    change_members: Callable[[Caller, m.MemberChange, float], None]
    #: By token, in the order in which they began.
    steps: dict[int, Step] = field(default_factory=dict)
    #: Urls of the registrations of the start that have not come to an end.
    loading: list[str] = field(default_factory=list)
    #: Registrations of the start that failed for a reason that may pass, and when to try them again.
    load_again: list[Preparing] = field(default_factory=list)
    load_again_at: float = -inf
    #: How long workers that this turn retires may finish, by version; negative is for ever.
    patience_s: dict[Key, float] = field(default_factory=dict)
    #: (archive, url) of what versions used, or might have used, until it is known whether any does.
    let_go: dict[tuple[str, str], None] = field(default_factory=dict)
    #: Asks that have not been answered, by gateway.
    _pending: dict[bytes, set[int]] = field(default_factory=dict)
    _next_token: int = 1

    def __repr__(self) -> str:
        return f"{type(self).__name__}(steps={self.steps!r})"

    def enter(self, step: Step) -> int:
        """Note a step that is being taken; return its token."""
        token = self.new_token()
        self.steps[token] = step
        return token

    def store(self, step: Storing, change: Change) -> None:
        """Have a change made durable, which ends the step."""
        self.emit(Store(self.enter(step), change))

    def of_kind(self, kind: type[StepT]) -> Iterator[tuple[int, StepT]]:
        """Yield the steps of a kind with their tokens, oldest first; they may be removed meanwhile."""
        return ((token, step) for token, step in list(self.steps.items()) if isinstance(step, kind))

    def new_registration(self) -> str:
        """Return a text that no other registration has, also not of another start of the broker."""
        return f"{self.epoch}-{self.new_token()}"

    def new_token(self) -> int:
        """Return a number by which what is being stored comes back."""
        self._next_token += 1
        return self._next_token

    def installs_packages(self, record: VersionRecord) -> bool:
        """Tell whether a version's workers have what its archive requires installed before they load."""
        return self.settings.install_py_dep_per_model and record.has_requirements

    def drop_unused_archives(self) -> None:
        """Have those deleted that no version uses, unless a registration on its way may need them."""
        if not self.let_go or any(isinstance(step, UsingArchives) for step in self.steps.values()):
            return
        let_go, self.let_go = self.let_go, {}
        for archive, url in let_go:
            is_used = self.catalog.is_archive_used(archive)
            is_url_used = any(record.url == url for record in self.catalog)
            if not (is_used and is_url_used):
                self.emit(DropArchive("" if is_used else archive, None if is_url_used else parse(url)))

    def is_being_registered(self, key: Key) -> bool:
        """Tell whether a version is being stored, or is one of those of a workflow that is."""
        one_by_one = any(step.record.key == key for _, step in self.of_kind(Registering))
        of_workflows = (step.versions for _, step in self.of_kind(RegisteringWorkflow))
        return one_by_one or any(record.key == key for versions in of_workflows for record in versions)

    # Callers

    def is_pending(self, peer: bytes, ask: int) -> bool:
        """Tell whether an ask is being worked on."""
        return ask in self._pending.get(peer, ())

    def forget_peer(self, peer: bytes) -> None:
        """Answer a gateway no more; what it began goes on."""
        self._pending.pop(peer, None)

    def reply(self, caller: Caller, reply: m.Message) -> None:
        """Answer a caller, if it still waits."""
        if self.is_pending(*caller):
            self._pending[caller[0]].discard(caller[1])
            self.emit(Send(caller[0], reply))

    def refuse(self, caller: Caller, error: errors.RelayError) -> None:
        """Answer a caller with an error."""
        self.reply(caller, m.AskRefused(caller[1], error.name, error.message, error.details))

    def succeed(self, caller: Caller, reply: m.Message) -> None:
        """Answer a caller whose change has come about, once the snapshot of it is there to be looked at."""
        self.write_snapshot(WritingSnapshot("snapshot", caller, reply))

    def snapshot_written(self, step: WritingSnapshot) -> None:
        """Answer who waited for a snapshot, also where it could not be written."""
        if step.caller is not None and step.reply is not None:
            self.reply(step.caller, step.reply)

    def write_snapshot(self, step: WritingSnapshot) -> None:
        """Write what the models are now, if snapshots are wanted; then answer who waits for it."""
        if self.settings.snapshot_dir is None:
            self.snapshot_written(step)
        else:
            self.emit(WriteSnapshot(self.enter(step), step.kind, self.catalog.as_startup_models()))
