"""What the registry keeps, and the changes made to it; shared by the pure core and the database.

A change is small on purpose: two of them in flight at once never overwrite one another's fields.
"""

from dataclasses import dataclass, field

from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.archives.workflow_spec import WorkflowSpec
from torchrelay.shared.wire.fields import KeyedApi, MemberRole


@dataclass(frozen=True, slots=True)
class Prepared:
    """An archive that is in the store by its sha256 (hex), with what its manifest says ("" if silent)."""

    archive: str
    archive_bytes: int
    model_name: str
    model_version: str
    handler: str
    runtime: str
    #: The name TorchServe derives from the file for archives without one, used at start only.
    file_name: str
    #: What its model-config.yaml says; None without one.
    config: ModelConfig | None = None
    #: What in that file was passed over, a line each.
    config_warnings: tuple[str, ...] = ()
    #: Whether it names a file of Python packages that it needs.
    has_requirements: bool = False
    #: Where it lies on the broker's host; a folder there is the model itself.
    path: str = ""
    #: Whether it was a folder, which workers see as it was then.
    is_packed: bool = False


@dataclass(frozen=True, slots=True)
class PreparedWorkflow:
    """An archive of a workflow that is in the store, as `archive` says; its functions' models use it."""

    archive: str
    archive_bytes: int
    path: str
    name: str
    #: The file with the functions.
    handler: str
    spec: WorkflowSpec


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One registered version of a model; times in the unit of their name."""

    model: str
    version: str
    url: str
    archive: str
    archive_bytes: int
    handler: str
    runtime: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay_ms: int
    response_timeout_s: int
    startup_timeout_s: int
    loaded_at_startup: bool
    #: What the archive's model-config.yaml says; what other sources may say too is above, decided.
    config: ModelConfig = field(default_factory=ModelConfig)
    #: Whether the archive names a file of Python packages that it needs.
    has_requirements: bool = False
    #: Where the archive lies on the broker's host; a folder there is the model itself.
    archive_path: str = ""
    #: No two registrations have the same, not even of the same version.
    registration: str = ""
    #: The workflow that it is a step of, "" for any other; `url` is "" then for a function of that one.
    workflow: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Model name and version."""
        return self.model, self.version

    @property
    def is_function(self) -> bool:
        """Whether it is a function of a workflow, which lists don't show."""
        return bool(self.workflow and not self.url)


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """A registered workflow; its steps' models are versions of their own."""

    name: str
    url: str
    spec: WorkflowSpec


def model_of_step(workflow: str, step: str) -> str:
    """Name the model that is a step of a workflow, as TorchServe does."""
    return f"{workflow}__{step}"


@dataclass(frozen=True, slots=True)
class PutWorkflow:
    """Add a workflow with the versions of all its steps."""

    record: WorkflowRecord
    versions: tuple[VersionRecord, ...]


@dataclass(frozen=True, slots=True)
class RemoveWorkflow:
    """Drop a workflow with all versions that are its steps."""

    name: str


@dataclass(frozen=True, slots=True)
class PutVersion:
    """Add a version, or replace one of the same name and number; the first of a name is its default."""

    record: VersionRecord


@dataclass(frozen=True, slots=True)
class RemoveVersion:
    """Drop a version; with the last one the model goes, else the oldest left takes a lost default's place."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class SetTargets:
    """How many workers a version shall have."""

    model: str
    version: str
    min_workers: int
    max_workers: int


@dataclass(frozen=True, slots=True)
class SetDefaultVersion:
    """Which version answers when none is named."""

    model: str
    version: str


@dataclass(frozen=True, slots=True)
class RememberNodes:
    """Names of the nodes that are here, for the next start to know whom to wait for."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An access key by its sha256 (hex); `expires_at_ms` is wall clock time, None is never."""

    api: KeyedApi
    sha256: str
    expires_at_ms: int | None


@dataclass(frozen=True, slots=True)
class PutKeys:
    """All access keys made here, in place of those before."""

    keys: tuple[KeyRecord, ...]


@dataclass(frozen=True, slots=True)
class InvitationRecord:
    """An invitation: a key that lets newcomers in, who may only say by which key they come back.

    `name` "" leaves the name to the newcomer. `models` is a pattern, "" for all. `uses_left` None is any
    number.
    """

    public_key: str
    role: MemberRole
    name: str
    models: str
    made_at_ms: int
    expires_at_ms: int | None
    uses_left: int | None
    is_ephemeral: bool
    may_manage: bool


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A gateway or node that has joined, by its key; the rest is as its invitation said."""

    public_key: str
    role: MemberRole
    name: str
    models: str
    since_ms: int
    is_ephemeral: bool
    may_manage: bool


#: Keys that let nobody in any more, the latest, of which it is still known why.
ENDED_KEYS_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class EndedKey:
    """A member's or an invitation's key that lets nobody in any more, and why, in words for the log."""

    public_key: str
    role: MemberRole
    name: str
    was_member: bool
    why: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class PutInvitation:
    """Add an invitation."""

    invitation: InvitationRecord


@dataclass(frozen=True, slots=True)
class PutMember:
    """Add a member, and count the use of its invitation; `ended` are the keys that end with that."""

    member: MemberRecord
    invitation: str
    ended: tuple[EndedKey, ...]


@dataclass(frozen=True, slots=True)
class EndKeys:
    """Let nobody in any more by these keys, members' or invitations'."""

    ended: tuple[EndedKey, ...]


@dataclass(frozen=True, slots=True)
class ForgetKeys:
    """Forget these keys, as if they had never been, and that these nodes drain."""

    public_keys: tuple[str, ...]
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SetDraining:
    """Whether a node, by its name, gets no new work."""

    node: str
    is_draining: bool


MemberChange = PutInvitation | PutMember | EndKeys | ForgetKeys | SetDraining
Change = (
    PutVersion | RemoveVersion | SetTargets | SetDefaultVersion | PutWorkflow | RemoveWorkflow
    | RememberNodes | PutKeys | MemberChange
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the registry holds when the broker starts; `defaults` is model -> version."""

    versions: tuple[VersionRecord, ...] = ()
    defaults: tuple[tuple[str, str], ...] = ()
    nodes: tuple[str, ...] = ()
    keys: tuple[KeyRecord, ...] = ()
    invitations: tuple[InvitationRecord, ...] = ()
    members: tuple[MemberRecord, ...] = ()
    ended_keys: tuple[EndedKey, ...] = ()
    draining: tuple[str, ...] = ()
    workflows: tuple[WorkflowRecord, ...] = ()
