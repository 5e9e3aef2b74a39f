"""JSON bodies of the HTTP API: the gateway encodes them, OpenAPI describes them, the commands decode them.

A field's JSON name is its name here in camel case, and JSON has the fields in the order in which they stand
here; both are TorchServe's where it has such a body. A field with a default is left out where it has that
value. A field that is added later gets a default: then a command reads the answer of an older server.
"""

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from torchrelay.shared.archives.model_archive import RUNTIMES
from torchrelay.shared.archives.model_config import ParallelType
from torchrelay.shared.wire.fields import NAME_LIMIT_CHARS, NUMBER_32_LIMIT, SAID_LIMIT_CHARS

Count = Annotated[int, Meta(ge=0)]
#: -1 while there is no process.
Pid = Annotated[int, Meta(ge=-1)]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Runtime = Annotated[str, Meta(extra_json_schema={"enum": list(RUNTIMES)})]
Metadata = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]
Parallel = Annotated[str, Meta(extra_json_schema={"enum": list(get_args(ParallelType))})]


class JsonBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of all objects of these bodies."""


class ErrorBody(JsonBody, frozen=True, kw_only=True):
    """What failed; `details` say why, and come with a 5xx alone; `error` is the open inference protocol's."""

    code: Annotated[int, Meta(ge=100, le=999)]
    type: str
    message: str
    details: str = ""
    error: str = ""


class StatusBody(JsonBody, frozen=True, kw_only=True):
    """What became of a change, in words."""

    status: str


class HealthBody(JsonBody, frozen=True, kw_only=True):
    """Whether the fleet is healthy."""

    status: Literal["Healthy", "Unhealthy"]


class ProbeBody(JsonBody, frozen=True, kw_only=True):
    """How a gateway process is; the reason tells why it isn't ready."""

    status: str
    reason: str = ""


class ReadinessBody(JsonBody, frozen=True, kw_only=True):
    """Whether a worker of a model is ready."""

    name: str
    ready: bool


class ModelsEntryBody(JsonBody, frozen=True, kw_only=True):
    """A registered model, with the archive of its default version."""

    model_name: str
    model_url: str


class ModelsBody(JsonBody, frozen=True, kw_only=True):
    """A page of the registered models; the last page has no token of a next one."""

    next_page_token: Annotated[str, Meta(pattern="^[0-9]+$")] | UnsetType = UNSET
    models: tuple[ModelsEntryBody, ...]


class WorkflowsEntryBody(JsonBody, frozen=True, kw_only=True):
    """A registered workflow, with its archive."""

    workflow_name: str
    workflow_url: str


class WorkflowsBody(JsonBody, frozen=True, kw_only=True):
    """A page of the registered workflows; the last page has no token of a next one."""

    next_page_token: Annotated[str, Meta(pattern="^[0-9]+$")] | UnsetType = UNSET
    workflows: tuple[WorkflowsEntryBody, ...]


class WorkflowBody(JsonBody, frozen=True, kw_only=True):
    """A workflow as `describe` shows it; its numbers are what its spec says for all models.

    `max_batch_delay` is in milliseconds. `workflow_dag` has each step with those that follow it:
    `{first=[second, third], second=[]}`.
    """

    workflow_name: str
    workflow_url: str
    min_workers: Count
    max_workers: Count
    batch_size: Annotated[int, Meta(ge=1)]
    max_batch_delay: Count
    workflow_dag: str


class WorkerBody(JsonBody, frozen=True, kw_only=True):
    """A worker as `describe` shows it; `memory_usage` is in bytes."""

    id: str
    start_time: Time
    status: Literal["READY", "UNLOADING"]
    memory_usage: Count
    pid: Pid
    gpu: bool
    gpu_usage: str


class JobQueueBody(JsonBody, frozen=True, kw_only=True):
    """The queue of a version, in requests."""

    remaining_capacity: Count
    pending_requests: Count


class PlacementBody(JsonBody, frozen=True, kw_only=True):
    """Where workers may be: the memory that each needs on its devices, and what their nodes must have."""

    memory_bytes: Count = 0
    labels: dict[str, str] = {}
    strategy: Literal["spread", "pack"]


class VersionBody(JsonBody, frozen=True, kw_only=True):
    """A version as `describe` shows it.

    `max_batch_delay` is in milliseconds; `response_timeout` and `startup_timeout` are in seconds.
    A function of a workflow has no `model_url`. `customized_metadata` is what the handler says of itself, if
    it was asked. TorchServe knows nothing of `placement`; with it, `explanation` says why workers are
    missing.
    """

    model_name: str
    model_version: str
    model_url: str | UnsetType = UNSET
    runtime: Runtime
    min_workers: Count
    max_workers: Count
    batch_size: Annotated[int, Meta(ge=1)]
    max_batch_delay: Count
    response_timeout: Count
    startup_timeout: Count
    max_retry_timeout_in_sec: Count
    client_timeout_in_mills: Count
    parallel_type: Parallel
    parallel_level: Count
    device_type: Literal["cpu", "gpu"]
    device_ids: tuple[Count, ...] = ()
    continuous_batching: bool
    use_job_ticket: bool
    use_venv: bool
    stateful: bool
    sequence_max_idle_ms: Count = msgspec.field(name="sequenceMaxIdleMSec")
    sequence_timeout_ms: Count = msgspec.field(name="sequenceTimeoutMSec")
    max_num_sequence: Count
    max_sequence_job_queue_size: Count
    loaded_at_startup: bool
    workers: tuple[WorkerBody, ...]
    job_queue_status: JobQueueBody
    customized_metadata: Metadata | UnsetType = UNSET
    placement: PlacementBody | UnsetType = UNSET
    explanation: str = ""


class DeviceBody(JsonBody, frozen=True, kw_only=True):
    """A device of a node.

    `memory_taken_bytes` of its memory is reserved for workers, or in use where that is more.
    """

    name: str
    kind: Literal["cpu", "gpu"]
    description: str
    memory_bytes: Count
    memory_taken_bytes: Count = 0


class NodeBody(JsonBody, frozen=True, kw_only=True):
    """A node and how full it is; by its `labels` models may choose it, one that drains gets no new work."""

    name: str
    devices: tuple[DeviceBody, ...]
    slots: Count
    slots_used: Count
    last_seen_ms: Count
    labels: dict[str, str] = {}
    is_draining: bool = False


class FleetWorkerBody(JsonBody, frozen=True, kw_only=True):
    """A worker as `fleet` shows it."""

    id: Count
    state: str
    node: str
    device: str
    pid: Pid
    start_time: Time
    memory_bytes: Count
    jobs_running: Count
    note: str


class QuarantinedBody(JsonBody, frozen=True, kw_only=True):
    """Requests that are refused for `left_ms` more, since one with their content ended workers."""

    request_id: str
    reason: str
    workers_lost: Count
    refused: Count
    left_ms: Count


class FleetModelBody(JsonBody, frozen=True, kw_only=True):
    """A version of a model: what is wanted, what is there, and why they differ.

    It is a step of `workflow`, or none; a function of a workflow has no url.
    """

    model_name: str
    model_version: str
    is_default: bool
    model_url: str
    workers_wanted: Count
    workers_ready: Count
    queue_depth: Count
    queue_limit: Count
    oldest_wait_ms: Count
    explanation: str
    last_error: str
    quarantined: tuple[QuarantinedBody, ...]
    workers: tuple[FleetWorkerBody, ...]
    workflow: str = ""

    @property
    def label(self) -> str:
        """Name and version in one."""
        return f"{self.model_name} {self.model_version}"

    @property
    def status(self) -> str:
        """What it is in one word, for people."""
        if not self.workers_wanted:
            return "off"
        if self.is_ready:
            return "ready"
        if any(worker.state == "unready" for worker in self.workers):
            return "not ready"
        return "failing" if self.has_failed else "starting"

    @property
    def is_ready(self) -> bool:
        """Whether every worker that is wanted is there."""
        return self.workers_ready >= self.workers_wanted

    @property
    def has_failed(self) -> bool:
        """Whether the last thing that was heard of it is an error."""
        return not self.is_ready and bool(self.last_error)


class NotLoadedBody(JsonBody, frozen=True, kw_only=True):
    """A model of the start that could not be registered; its callers get 503."""

    model_name: str
    model_url: str
    reason: str


class FleetBody(JsonBody, frozen=True, kw_only=True):
    """The fleet at one moment.

    `loading` names start-up archives that are neither registered nor refused yet; `server_id` tells whose
    gateway has answered.
    """

    epoch: Count
    uptime_s: Annotated[float, Meta(ge=0)]
    gateways: Count
    loading: tuple[str, ...]
    server_id: str
    nodes: tuple[NodeBody, ...]
    models: tuple[FleetModelBody, ...]
    not_loaded: tuple[NotLoadedBody, ...] = ()


class MemberBody(JsonBody, frozen=True, kw_only=True):
    """A node or gateway; one on the broker's host needs no key, and is no member.

    `state`: `here`, `draining` (a node that gets no new work), `away`, or `revoked`. `key` is as much of its
    public key as tells it from others. `since` is when it joined, or was revoked; `last_seen` is absent where
    that was before the broker's start. `models` is a pattern of those that a node may hold; without one, all.
    """

    name: str
    state: Literal["here", "draining", "away", "revoked"]
    workers: Count
    jobs_running: Count
    key: str = ""
    since: Time | UnsetType = UNSET
    last_seen: Time | UnsetType = UNSET
    models: str = ""
    ephemeral: bool = False
    may_manage: bool = False


class NodesBody(JsonBody, frozen=True, kw_only=True):
    """All nodes by their names."""

    nodes: tuple[MemberBody, ...]


class GatewaysBody(JsonBody, frozen=True, kw_only=True):
    """All gateways by their names; one that needs no key is there once for each host."""

    gateways: tuple[MemberBody, ...]


class InvitationBody(JsonBody, frozen=True, kw_only=True):
    """An invitation that lets somebody in.

    Without `expires` it never does; without `uses_left` it lets any number of hosts in.
    """

    id: str
    made: Time
    expires: Time | UnsetType = UNSET
    uses_left: Count | UnsetType = UNSET
    name: str = ""
    models: str = ""
    ephemeral: bool = False
    may_manage: bool = False


class InvitationsBody(JsonBody, frozen=True, kw_only=True):
    """The invitations that let somebody in, oldest first."""

    invitations: tuple[InvitationBody, ...]


class InvitationRequestBody(JsonBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an invitation is to be."""

    name: Annotated[
        str, Meta(max_length=NAME_LIMIT_CHARS, description="What the host will be called; else it chooses.")
    ] = ""
    models: Annotated[
        str, Meta(max_length=SAID_LIMIT_CHARS, description="A pattern of the models that a node may hold.")
    ] = ""
    ttl: Annotated[
        int, Meta(ge=0, le=NUMBER_32_LIMIT, description="Seconds until it expires; 0: it never does.")
    ] = 3600
    uses: Annotated[
        int, Meta(ge=0, le=NUMBER_32_LIMIT, description="Hosts that it lets in; 0: any number.")
    ] = 1
    ephemeral: Annotated[
        bool, Meta(description="Whether hosts are forgotten once they have been silent for ten minutes.")
    ] = False
    manage: (
        Annotated[bool, Meta(description="Whether a gateway may change models, keys and members; it may.")]
        | UnsetType
    ) = UNSET


class InvitedBody(JsonBody, frozen=True, kw_only=True):
    """A new invitation; `command` has it in it, and is to be run on the host that joins. Both are secrets."""

    id: str
    invitation: str
    command: str
    expires: Time | UnsetType = UNSET


class BrokerKeyBody(JsonBody, frozen=True, kw_only=True):
    """The public key that the broker will have from its next start on."""

    next_key: str


class ProtocolServerBody(JsonBody, frozen=True, kw_only=True):
    """What serves, in KServe's open inference protocol; the misspelt field is TorchServe's."""

    name: str
    version: str
    extensions: tuple[str, ...]
    extenstion: tuple[str, ...]


class ProtocolLiveBody(JsonBody, frozen=True, kw_only=True):
    """Whether the server lives, in KServe's open inference protocol."""

    live: bool


class ProtocolReadyBody(JsonBody, frozen=True, kw_only=True):
    """Whether the server is ready, in KServe's open inference protocol."""

    ready: bool


class ProtocolTensorBody(JsonBody, frozen=True, kw_only=True):
    """A tensor that a model takes or makes, in KServe's open inference protocol."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ProtocolModelBody(JsonBody, frozen=True, kw_only=True):
    """A model, in KServe's open inference protocol. Of its tensors nothing is known: handlers don't say."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[ProtocolTensorBody, ...]
    outputs: tuple[ProtocolTensorBody, ...]
