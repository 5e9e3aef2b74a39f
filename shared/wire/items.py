"""The parts of the fleet's messages: jobs on their way, and facts about models, workers and nodes.

Positional on the wire like the messages themselves: append fields with a default, never reorder.
"""

from typing import Literal

import msgspec

from torchrelay.shared.wire import fields as f


class Message(msgspec.Struct, array_like=True, frozen=True):
    """Base of all messages, see `messages` and `membership`."""


class Item(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of the parts of messages; holds no cycle, so the collector need not look."""


class Device(Item, frozen=True):
    """A device that a node offers: `cpu`, `cuda:0`, ...; memory_bytes is 0 where unknown."""

    name: f.DeviceName
    kind: Literal["cpu", "gpu"]
    description: f.Said = ""
    memory_bytes: f.Number = 0


class GpuUse(Item, frozen=True):
    """What a node's GPU has to do, `number` being torch's; None where it can't tell (shared by MIG).

    `memory_busy_percent` is the share of time in which its memory was read or written.
    """

    number: f.Number
    used_bytes: f.Number
    busy_percent: f.Number32 | None = None
    memory_busy_percent: f.Number32 | None = None


class HeldWorker(Item, frozen=True):
    """A worker process that a node holds when it joins; `archive` is the sha256 in hex. `claim` and what
    follows it are as they were told with the order to start it.
    """

    worker_id: f.WorkerId
    model: f.Said
    version: f.Said
    archive: f.ArchiveName
    device: f.DeviceName
    pid: f.Pid
    claim: f.Name = ""
    #: The key by which the worker comes; "" where parts need none.
    public_key: f.PublicKeyOrNone = ""
    devices: f.Devices[f.DeviceName] = ()
    reserved_bytes: f.Number = 0


class HeldJob(Item, frozen=True):
    """A job that a worker holds: its gateway's peer id and the gateway's number for it, as no other job's.

    Where a gateway comes back as another process, its peer id is another one.
    """

    gateway: bytes
    job: f.Number
    sequence: f.Said = ""


class HeldLease(Item, frozen=True):
    """A lease that a worker holds when it says hello; with `is_answered` one that it has answered lately.

    `streamed` counts the Streamed messages that there were for it.
    """

    lease: f.Number
    is_answered: bool
    is_describe: bool
    streamed: f.Number
    jobs: f.OfOneBatch[HeldJob]


class SubmitItem(Item, frozen=True):
    """One job. `version` None means the default.

    `left_ms`: how long its client still waits, counted from here on, since hosts share no clock; 0 where the
    client didn't say.
    """

    job: f.Number
    model: f.Said
    version: f.Said | None
    is_describe: bool
    meta: bytes
    frames: f.Number = 0
    #: What the request's sequence header says; "" where there is none.
    sequence: f.Said = ""
    left_ms: f.Number32 = 0


class AssignItem(Item, frozen=True):
    """One job of a batch.

    `sequence` is set for models that batch by sequence; `starts_sequence` where the broker made it up.
    `left_ms`: how long its client, or its model, still waits for the answer; 0 where neither has said.
    `gateway` and `job` are its own, see HeldJob.
    """

    meta: bytes
    frames: f.Number = 0
    sequence: f.Said = ""
    starts_sequence: bool = False
    left_ms: f.Number32 = 0
    gateway: bytes = b""
    job: f.Number = 0


class AheadItem(Item, frozen=True):
    """A batch that is sent ahead: its lease, and how many of a message's items are its jobs."""

    lease: f.Number
    jobs: f.Number


class CompletedItem(Item, frozen=True):
    """The answer to one job of a batch, in the batch's order; the last part, if parts were streamed.

    `ends_sequences` names sequences that the handler closed with this answer.
    """

    status: f.Whole32
    meta: bytes
    frames: f.Number = 0
    ends_sequences: tuple[f.Prose, ...] = ()


class StreamedItem(Item, frozen=True):
    """A part of the answer to the job at `index` of its batch; others will follow."""

    index: f.Number
    meta: bytes
    frames: f.Number = 0


class AnsweredItem(Item, frozen=True):
    """A worker's answer, or with `is_final` false a part of one, on its way to the gateway.

    `part` counts the parts sent before this one: a gateway that finds one missing cuts the answer
    short, one that it has seen already it drops.
    """

    job: f.Number
    meta: bytes
    frames: f.Number = 0
    is_final: bool = True
    part: f.Number = 0


class RefusedItem(Item, frozen=True):
    """The broker's own answer to a job: an error by class name, see `shared.errors`.

    `retry_after_s`: when another try may fare better, of what is unavailable now.
    """

    job: f.Number
    error: f.Prose
    message: f.Prose
    details: f.Prose
    retry_after_s: f.Number32 = 1


class WorkerFacts(Item, frozen=True):
    """A worker as `describe` and `status` show it; memory_bytes is its resident set."""

    worker_id: f.WorkerId
    state: f.Name
    node: f.Prose
    device: f.DeviceName
    pid: f.Pid
    started_at_ms: f.Whole
    memory_bytes: f.Whole
    jobs_running: f.Whole
    note: f.Prose
    #: What its (first) GPU has to do; None on a cpu, and where the node doesn't measure it.
    gpu: GpuUse | None = None


class QuarantinedItem(Item, frozen=True):
    """Requests that are refused since one with their content, `request_id`, ended workers by `reason`."""

    request_id: f.Prose
    reason: f.Prose
    workers_lost: f.Whole
    refused: f.Whole
    left_ms: f.Whole


class VersionFacts(Item, frozen=True):
    """One version of a model: what is wanted, what is there, and why they differ."""

    model: f.Prose
    version: f.Prose
    is_default: bool
    url: f.Prose
    runtime: f.Prose
    min_workers: f.Whole
    max_workers: f.Whole
    batch_size: f.Whole
    max_batch_delay_ms: f.Whole
    response_timeout_s: f.Whole
    startup_timeout_s: f.Whole
    restart_window_s: f.Whole
    loaded_at_startup: bool
    queue_depth: f.Whole
    queue_limit: f.Whole
    oldest_wait_ms: f.Whole
    workers: tuple[WorkerFacts, ...]
    explanation: f.Prose
    last_error: f.Prose
    # What follows is the archive's model-config.yaml, as far as `describe` shows it.
    client_timeout_ms: f.Whole = 0
    parallel_type: f.Name = ""
    parallel_level: f.Whole = 0
    device_type: Literal["cpu", "gpu"] = "cpu"
    device_ids: f.Numbers = ()
    continuous_batching: bool = False
    use_job_ticket: bool = False
    use_venv: bool = False
    sequence_batching: bool = False
    sequence_max_idle_ms: f.Whole = 0
    sequence_timeout_ms: f.Whole = 0
    max_sequences: f.Whole = 0
    max_sequence_queue_jobs: f.Whole = 0
    #: The newest of them.
    quarantined: tuple[QuarantinedItem, ...] = ()
    #: What its model config says of `placement`; the strategy is "" where it says nothing.
    strategy: Literal["", "spread", "pack"] = ""
    memory_bytes: f.Whole = 0
    labels: f.Labels = ()
    #: The workflow that it is a step of; a function of one has no url.
    workflow: f.Said = ""


class VersionReadiness(Item, frozen=True):
    """Whether a version can answer requests now; `is_wanted` is false where it shall have no workers."""

    model: f.Prose
    version: f.Prose
    is_default: bool
    is_ready: bool
    is_wanted: bool = True
    why_not: f.Prose = ""


class NotLoaded(Item, frozen=True):
    """A model of the start that could not be registered; callers know it by `model`."""

    model: f.Prose
    url: f.Prose
    reason: f.Prose


class NodeFacts(Item, frozen=True):
    """A node as `status` shows it."""

    name: f.Prose
    devices: tuple[Device, ...]
    slots: f.Whole
    slots_used: f.Whole
    last_seen_ms: f.Whole
    labels: f.Labels = ()
    #: Of each of its devices, how much memory is reserved for workers or in use, whichever is more.
    taken_bytes: f.Devices[f.Whole] = ()
    is_draining: bool = False


class ModelEntry(Item, frozen=True):
    """A line of the model list: the default version's url."""

    model: f.Prose
    url: f.Prose


class MetricPoint(Item, frozen=True):
    """One measured value, as TorchServe's handlers emit it and its log lines show it.

    `unit` is spelled out (`Milliseconds`, `Count`, ...); `dimensions` are (name, value) without the host.
    """

    name: f.Prose
    kind: Literal["counter", "gauge", "histogram"]
    unit: f.Prose
    value: float
    dimensions: tuple[tuple[f.Prose, f.Prose], ...]
    at_ms: f.Whole
    request_ids: tuple[f.Prose, ...] = ()


class AccessKey(Item, frozen=True):
    """A key that opens an API; `expires_in_ms` None: it never does.

    Gateways are told the sha256 of its sha256 (hex, each of the text). So they can't know the sha256 itself
    unless a client brings the key: it is the `proof` that the broker asks for with every change.
    """

    api: f.KeyedApi
    sha256: f.Name
    expires_in_ms: f.Whole | None


class Sample(Item, frozen=True):
    """One Prometheus sample: the name's suffix (`_bucket`, `_sum`, ...), label values, value."""

    suffix: f.Prose
    labels: tuple[tuple[f.Prose, f.Prose], ...]
    value: float


class MetricFamily(Item, frozen=True):
    """One Prometheus metric with its samples."""

    name: f.Prose
    kind: Literal["counter", "gauge", "histogram"]
    help: f.Prose
    samples: tuple[Sample, ...]


class MemberFacts(Item, frozen=True):
    """A node or gateway as `nodes` and `gateways` show it.

    `key` is as much of its public key as tells it from others, "" for one on the broker's host that needs
    none. `state`: `here`, `draining` (a node that is here), `away`, `revoked`. `seen_at_ms` is when it was
    last heard, None where that was before the broker's start. The rest as in Invite.
    """

    name: f.Name
    role: f.MemberRole
    key: f.Name
    state: Literal["here", "draining", "away", "revoked"]
    since_ms: f.Number | None = None
    seen_at_ms: f.Number | None = None
    models: f.Said = ""
    ephemeral: bool = False
    may_manage: bool = False
    #: Workers that a node holds, and the jobs that they run.
    workers: f.Number = 0
    jobs_running: f.Number = 0


class InvitationFacts(Item, frozen=True):
    """An invitation that lets somebody in; `invitation` is as much of its public key as tells it from others.

    `uses_left` is None for any number; the rest as in Invite.
    """

    invitation: f.Name
    role: f.MemberRole
    name: f.Name
    models: f.Said
    made_at_ms: f.Number
    expires_at_ms: f.Number | None
    uses_left: f.Number | None
    ephemeral: bool
    may_manage: bool
