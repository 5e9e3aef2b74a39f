"""The parts of the fleet's messages: jobs on their way, and facts about models, workers and nodes.

Positional on the wire like the messages themselves: append fields with a default, never reorder.
"""

from typing import Literal

import msgspec


class Item(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of the parts of messages; holds no cycle, so the collector need not look."""


class Device(Item, frozen=True):
    """A device that a node offers: `cpu`, `cuda:0`, ...; memory_bytes is 0 where unknown."""

    name: str
    kind: Literal["cpu", "gpu"]
    description: str = ""
    memory_bytes: int = 0


class GpuUse(Item, frozen=True):
    """What a node's GPU has to do, `number` being torch's; None where it can't tell (shared by MIG).

    `memory_busy_percent` is the share of time in which its memory was read or written.
    """

    number: int
    used_bytes: int
    busy_percent: int | None = None
    memory_busy_percent: int | None = None


class HeldWorker(Item, frozen=True):
    """A worker process that a node holds when it joins; `archive` is the sha256 in hex."""

    worker_id: int
    model: str
    version: str
    archive: str
    device: str
    pid: int


class SubmitItem(Item, frozen=True):
    """One job. `version` None means the default."""

    job: int
    model: str
    version: str | None
    is_describe: bool
    meta: bytes
    frames: int = 0
    #: What the request's sequence header says; "" where there is none.
    sequence: str = ""


class AssignItem(Item, frozen=True):
    """One job of a batch; `attempt` counts from 1.

    `sequence` is set for models that batch by sequence; `starts_sequence` where the broker made it up.
    """

    attempt: int
    meta: bytes
    frames: int = 0
    sequence: str = ""
    starts_sequence: bool = False


class CompletedItem(Item, frozen=True):
    """The answer to one job of a batch, in the batch's order; the last part, if parts were streamed.

    `ends_sequences` names sequences that the handler closed with this answer.
    """

    status: int
    meta: bytes
    frames: int = 0
    ends_sequences: tuple[str, ...] = ()


class StreamedItem(Item, frozen=True):
    """A part of the answer to the job at `index` of its batch; others will follow."""

    index: int
    meta: bytes
    frames: int = 0


class AnsweredItem(Item, frozen=True):
    """A worker's answer, or with `is_final` false a part of one, on its way to the gateway.

    `part` counts the parts sent before this one: a gateway that finds one missing cuts the answer
    short, one that it has seen already it drops.
    """

    job: int
    meta: bytes
    frames: int = 0
    is_final: bool = True
    part: int = 0


class RefusedItem(Item, frozen=True):
    """The broker's own answer to a job: an error by class name, see `shared.errors`."""

    job: int
    error: str
    message: str
    details: str


class WorkerFacts(Item, frozen=True):
    """A worker as `describe` and `status` show it; memory_bytes is its resident set."""

    worker_id: int
    state: str
    node: str
    device: str
    pid: int
    started_at_ms: int
    memory_bytes: int
    jobs_running: int
    note: str
    #: What its (first) GPU has to do; None on a cpu, and where the node doesn't measure it.
    gpu: GpuUse | None = None


class QuarantinedItem(Item, frozen=True):
    """Requests that are refused since one with their content, `request_id`, ended workers by `reason`."""

    request_id: str
    reason: str
    workers_lost: int
    refused: int
    left_ms: int


class VersionFacts(Item, frozen=True):
    """One version of a model: what is wanted, what is there, and why they differ."""

    model: str
    version: str
    is_default: bool
    url: str
    archive: str
    handler: str
    runtime: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay_ms: int
    response_timeout_s: int
    startup_timeout_s: int
    restart_window_s: int
    loaded_at_startup: bool
    queue_depth: int
    queue_limit: int
    oldest_wait_ms: int
    workers: tuple[WorkerFacts, ...]
    explanation: str
    last_error: str
    # What follows is the archive's model-config.yaml, as far as `describe` shows it.
    client_timeout_ms: int = 0
    parallel_type: str = ""
    parallel_level: int = 0
    device_type: Literal["cpu", "gpu"] = "cpu"
    device_ids: tuple[int, ...] = ()
    continuous_batching: bool = False
    use_job_ticket: bool = False
    use_venv: bool = False
    sequence_batching: bool = False
    sequence_max_idle_ms: int = 0
    sequence_timeout_ms: int = 0
    max_sequences: int = 0
    max_sequence_queue_jobs: int = 0
    #: The newest of them.
    quarantined: tuple[QuarantinedItem, ...] = ()


class NodeFacts(Item, frozen=True):
    """A node as `status` shows it."""

    name: str
    devices: tuple[Device, ...]
    slots: int
    slots_used: int
    last_seen_ms: int


class ModelEntry(Item, frozen=True):
    """A line of the model list: the default version's url."""

    model: str
    url: str


class MetricPoint(Item, frozen=True):
    """One measured value, as TorchServe's handlers emit it and its log lines show it.

    `unit` is spelled out (`Milliseconds`, `Count`, ...); `dimensions` are (name, value) without the host.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    value: float
    dimensions: tuple[tuple[str, str], ...]
    at_ms: int
    request_ids: tuple[str, ...] = ()


class AccessKey(Item, frozen=True):
    """A key that opens an API; only its sha256 (hex) travels. `expires_in_ms` None: it never does."""

    api: Literal["inference", "management", "token"]
    name: str
    sha256: str
    expires_in_ms: int | None


class Sample(Item, frozen=True):
    """One Prometheus sample: the name's suffix (`_bucket`, `_sum`, ...), label values, value."""

    suffix: str
    labels: tuple[tuple[str, str], ...]
    value: float


class MetricFamily(Item, frozen=True):
    """One Prometheus metric with its samples."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: tuple[Sample, ...]
