"""Every message of the fleet's wire, as frozen structs, in the order of the unions below: one per direction.

Fields are positional on the wire: append new ones with a default, never reorder or reuse. A receiver
ignores trailing fields it doesn't know. A message that carries frames says how many belong to each
item, in order; `shared.wire.codec` splits them. Ids of asks and jobs are chosen by the gateway and unique
within one gateway process.
"""

from typing import Literal

from torchrelay.shared.wire import fields as f
from torchrelay.shared.wire.items import *  # the parts of messages are found here, too: `m.Device`
from torchrelay.shared.wire.membership import *  # and so are those about members
from torchrelay.shared.wire.model_changes import *  # and changes of models
from torchrelay.shared.wire.model_questions import *  # and questions about models and the fleet
from torchrelay.shared.wire.workflow_messages import *  # and all about workflows

#: Raised with a release that appends to the wire.
PROTOCOL_VERSION = 4
#: A broker works with peers from this version on, and sends them no kind of message that they don't know.
OLDEST_PROTOCOL_VERSION = 3
#: Answers are numbered, and sent again where they were lost, between peers from this version on.
NUMBERED_SINCE_PROTOCOL = 4
#: Several batches are one message to workers from this version on.
AHEAD_SINCE_PROTOCOL = 4


class Bye(Message, frozen=True):
    """The peer leaves on purpose; what it held is handed back at once."""


class Announced(Message, frozen=True):
    """The next message is large: nothing else is heard from its sender until it has crossed the network."""

    size_bytes: f.Number


class Missed(Message, frozen=True):
    """Send your numbered messages after this serial again: they have not come; see `shared.wire.serials`."""

    after: f.Number


class OfferMemory(Message, frozen=True):
    """Parts of messages will lie in a memory of this host; whoever can read it answers ReadsMemory.

    It is a gateway's or a worker's own, as `lender` says; the broker passes it on to those for whom they are,
    with the `owner`'s peer id. See `shared.processes.shared_memory`.
    """

    lender: Literal["gateway", "worker"]
    address: f.Mark
    mark: f.Mark
    size_bytes: f.Number
    owner: bytes = b""


class ReadsMemory(Message, frozen=True):
    """The sender has opened the memory that it was offered, and finds parts of messages there."""

    mark: f.Mark


class MemoryEnds(Message, frozen=True):
    """No parts of messages will be found in this memory any more."""

    mark: f.Mark


class HelloGateway(Message, frozen=True):
    """A gateway process joins."""

    protocol: f.Number32
    name: f.Name
    pid: f.Pid


class GatewayBeat(Message, frozen=True):
    """A gateway lives; `responses` are HTTP answers by status class since its last beat.

    `wrong_keys` came in as long with requests.
    `jobs` and `asks` have waited for an answer longer than a peer_timeout: the broker answers
    `Forgotten` with those it doesn't know, since a broken connection can swallow messages.
    `answered` as in Submit.
    """

    responses: f.Responses
    jobs: f.Numbers = ()
    asks: f.Numbers = ()
    wrong_keys: f.Number = 0
    answered: f.Number = 0


#: See Submit.
HELD = -1


class Submit(Message, frozen=True):
    """Jobs of one turn of the gateway's loop, with their frames.

    `heard` is the number of the latest Beat that had come when they were taken in, 0 before the first.
    HELD: they had to wait for a broker that was away, or were lost on the way before.
    `serial` rises from Submit to Submit. `again`: a broker before this one was sent these jobs, so that
    workers may have run them. `answered` is the serial up to which answers have come.
    """

    items: f.OfOneTurn[SubmitItem]
    heard: f.NumberOrMinusOne = 0
    serial: f.Number = 0
    again: bool = False
    answered: f.Number = 0


class Cancel(Message, frozen=True):
    """The clients of these jobs have gone."""

    jobs: f.Numbers


class RenewKey(Message, frozen=True):
    """Make a new key for one API; the one before it dies, at once or after the overlap that is set."""

    ask: f.Number
    api: Literal["inference", "management"]
    proof: f.Name = ""


class HelloNode(Message, frozen=True):
    """A node joins with what it offers and what it already holds.

    `memory_bytes` is the host's, which workers on its cpu share; 0 where unknown.
    `mark` is "", or what no other process can tell while this one lives: another node that told the same is
    dead.
    """

    protocol: f.Number32
    name: f.Name
    devices: f.Devices[Device]
    slots: f.Slots
    workers: f.Held[HeldWorker]
    labels: f.Labels = ()
    memory_bytes: f.Number = 0
    mark: f.Name = ""


class NodeLeaves(Message, frozen=True):
    """A node was told to stop, and says Bye within `grace_ms`, or once it holds no workers.

    The broker gives it no more of them, has those that it holds replaced elsewhere, and stops each when its
    successor is ready, or at once where no other node has a place.
    """

    grace_ms: f.Milliseconds


class NodeBeat(Message, frozen=True):
    """A node lives; `memory` is (worker id, resident bytes) of every worker it holds or starts.

    The broker gives up a worker that is missing, and has one stopped that it doesn't know.
    """

    memory: f.Held[tuple[f.WorkerId, f.Number]]


class NodeMeasured(Message, frozen=True):
    """The host's own figures (cpu, memory, disk, GPUs), once in a `metric_time_interval`; in between
    what handlers printed, which leaves `gpus` None.
    """

    hostname: f.Name
    points: f.Points[MetricPoint]
    gpus: f.Devices[GpuUse] | None = None


class WorkerProgressed(Message, frozen=True):
    """A worker on its way up: `fetching` its archive (bytes), `unpacking`, `installing` what the
    archive requires, `loading`, `warming` by requests of its own, or `waiting` for its handler's is_ready().
    """

    worker_id: f.WorkerId
    phase: Literal["fetching", "unpacking", "installing", "loading", "warming", "waiting"]
    pid: f.Pid = 0
    done_bytes: f.Number = 0
    total_bytes: f.Number = 0


class WorkerExited(Message, frozen=True):
    """A worker process has ended, or never came to be.

    `reason` is one line, the exception for a failed load; `last_lines` the end of its output. `of_itself` is
    false where it was told to stop, or ended with the process that had started it.
    """

    worker_id: f.WorkerId
    exit_code: f.Whole32 | None
    signal: f.Signal | None
    reason: f.Said
    out_of_memory: bool
    last_lines: f.Lines
    of_itself: bool = True


class FetchArchive(Message, frozen=True):
    """Ask for `length` bytes of an archive by its sha256."""

    archive: f.ArchiveName
    offset: f.Number
    length: f.Number


class HelloWorker(Message, frozen=True):
    """A worker has loaded its model and is ready for batches; `claim` came with the order to start it.

    One that comes back while its handler isn't ready says why, as in WorkerBeat.
    `held`: the leases that it has, oldest first, and those that it has answered lately.
    """

    protocol: f.Number32
    worker_id: f.WorkerId
    node: f.Name
    model: f.Said
    version: f.Said
    archive: f.ArchiveName
    device: f.DeviceName
    pid: f.Pid
    claim: f.Name = ""
    why_not_ready: f.Said = ""
    held: f.Held[HeldLease] = ()
    next_serial: f.Number = 0


class WorkerBeat(Message, frozen=True):
    """A worker lives; `leases` are those it has been given and has not answered.

    One that runs its batches in order beats between them, one with many leases at the same time
    whenever it can. `heard` is the number of the latest Beat: what it was given before that and doesn't
    hold was lost. `why_not_ready` says why the handler wants no batches now; empty if it takes them.
    `serial` is that of its latest Completed or Streamed.
    """

    leases: f.Numbers = ()
    heard: f.Number = 0
    why_not_ready: f.Said = ""
    serial: f.Number = 0


class Completed(Message, frozen=True):
    """A batch is done: one item per job, in the order assigned, with their frames.

    Sent for every lease, also a cancelled one. `streamed` counts the Streamed messages sent for it.
    """

    lease: f.Number
    handler_us: f.Number
    items: f.OfOneBatch[CompletedItem]
    streamed: f.Number = 0
    serial: f.Number = 0


class CompletedInRow(Message, frozen=True):
    """Batches that were done shortly one after the other, in this order, with all their frames."""

    batches: f.OfOneTurn[Completed]


class Streamed(Message, frozen=True):
    """Parts of answers of a batch that still runs, with their frames; the first of a job has its head.

    `number` counts the lease's Streamed messages from 0, so that one lost on the way is noticed.
    """

    lease: f.Number
    items: f.OfOneTurn[StreamedItem]
    number: f.Number = 0
    serial: f.Number = 0


class Measured(Message, frozen=True):
    """What handlers measured, gathered over a moment."""

    hostname: f.Name
    points: f.Points[MetricPoint]


class Welcome(Message, frozen=True):
    """The broker has taken the peer in; beats are due every `beat_interval_ms`.

    `is_new`: the broker holds nothing of this peer, because one of the two is new or the peer had been
    silent for too long. A gateway then submits again what waits, a worker throws away its batches.
    `beat` is the number of the latest Beat. `asks_for_keys`: callers of a gateway need keys, which
    KeysChanged tells. `keeps_leases`: what the worker's hello named as held is still its to answer.
    `shares_memory`: gateways and workers of the broker's host may offer theirs.
    """

    beat_interval_ms: f.Milliseconds
    peer_timeout_ms: f.Milliseconds
    is_new: bool = True
    beat: f.Number = 0
    asks_for_keys: bool = False
    keeps_leases: bool = False
    shares_memory: bool = False


class Beat(Message, frozen=True):
    """The broker lives. `number` rises from beat to beat; peers say which one they have heard.

    `serial`: the latest that a gateway was sent, or up to which all of a worker's messages have come.
    """

    number: f.Number = 0
    serial: f.Number = 0


class IntroduceYourself(Message, frozen=True):
    """The broker doesn't know the peer (it may have restarted): say hello."""


class Leave(Message, frozen=True):
    """The broker has no use for the peer: stop."""

    reason: f.Prose


class Misunderstood(Message, frozen=True):
    """The broker could not read a message, which changed nothing."""

    reason: f.Prose


class Answered(Message, frozen=True):
    """Workers' answers of one turn of the broker's loop, with their frames."""

    items: tuple[AnsweredItem, ...]
    serial: f.Number = 0


class Refused(Message, frozen=True):
    """Jobs the broker had to answer itself."""

    items: tuple[RefusedItem, ...]
    serial: f.Number = 0


class KeysChanged(Message, frozen=True):
    """The keys of all APIs, whole: sent to a gateway that joins, and to all at a change."""

    keys: tuple[AccessKey, ...]


class Forgotten(Message, frozen=True):
    """Of the jobs and asks of a GatewayBeat, those the broker does not know: submit them again."""

    jobs: f.Numbers
    asks: f.Numbers


class AskRefused(Message, frozen=True):
    """A management ask failed; see `shared.errors.rebuild`."""

    ask: f.Number
    error: f.Prose
    message: f.Prose
    details: f.Prose


class ModelRegistered(Message, frozen=True):
    """`done` is false while workers are still on their way and the caller did not want to wait."""

    ask: f.Number
    model: f.Said
    version: f.Said
    workers: f.Number
    done: bool


class ModelUnregistered(Message, frozen=True):
    """The version is gone."""

    ask: f.Number
    model: f.Said


class WorkersScaled(Message, frozen=True):
    """Targets are stored; `done` as in ModelRegistered."""

    ask: f.Number
    done: bool


class DefaultSet(Message, frozen=True):
    """The default version is stored."""

    ask: f.Number


class KeyRenewed(Message, frozen=True):
    """The new key is where keys are kept; it doesn't travel."""

    ask: f.Number


class ModelDescribed(Message, frozen=True):
    """One entry per version asked for."""

    ask: f.Number
    versions: tuple[VersionFacts, ...]


class ModelsListed(Message, frozen=True):
    """A page of the list; `next_offset` as TorchServe's nextPageToken."""

    ask: f.Number
    models: tuple[ModelEntry, ...]
    next_offset: f.Number | None


class FleetRead(Message, frozen=True):
    """The fleet at one moment; a large one in several messages, numbered by `part`, with some versions each.

    A gateway before protocol 4 gets one.
    """

    ask: f.Number
    epoch: f.Number
    uptime_s: float
    gateways: f.Number
    nodes: tuple[NodeFacts, ...]
    versions: tuple[VersionFacts, ...]
    #: Urls of the models of the start that are neither registered nor refused yet.
    loading: tuple[f.Prose, ...] = ()
    #: And those that could not be registered.
    not_loaded: tuple[NotLoaded, ...] = ()
    part: f.Number = 0
    is_last: bool = True


class MetricsRead(Message, frozen=True):
    """All metrics at one moment; many in several messages, numbered by `part`, with some samples each.

    A gateway before protocol 4 gets one.
    """

    ask: f.Number
    families: tuple[MetricFamily, ...]
    part: f.Number = 0
    is_last: bool = True


class StartWorker(Message, frozen=True):
    """Start one worker process; `archive_bytes` is the archive's size.

    `gpu_id` is None on a cpu. What follows `batch_size` are TorchServe's server-wide settings for
    handlers, and the archive's url.
    """

    worker_id: f.WorkerId
    model: f.Said
    version: f.Said
    archive: f.ArchiveName
    archive_bytes: f.Number
    handler: f.Prose
    device: f.DeviceName
    gpu_id: f.Number32 | None
    batch_size: f.Whole32
    service_envelope: f.Prose = ""
    decode_input_request: bool = True
    limit_max_image_pixels: bool = True
    max_response_bytes: f.Number = 6_553_500
    url: f.Prose = ""
    install_dependencies: bool = False  # whether what the archive's requirements name is installed for it
    metrics_config: bytes = b""  # the content of TorchServe's metrics.yaml; empty for the built-in one
    #: The GPUs that a worker with a parallelType sees, and no others; one for each of its processes.
    gpu_ids: f.Numbers = ()
    installs_only: bool = False  # it exits with 0 once what its archive requires is installed
    #: Tells one registration of a version from the next; the workers of one share their model's folder.
    registration: f.Prose = ""
    #: Where the broker has the archive, for a node on its host; a folder there is the model itself.
    archive_path: f.Prose = ""
    claim: f.Name = ""  # by it the broker, which alone can make it, knows that it had this worker started
    #: All that it has, `device` first; its node says them again when it joins.
    devices: f.Devices[f.DeviceName] = ()
    reserved_bytes: f.Number = 0  # how much memory is kept for it on each of them


class StopWorker(Message, frozen=True):
    """Stop a worker, and those in `also`: `kill` at once, or by SIGTERM and a short grace."""

    worker_id: f.WorkerId
    kill: bool
    reason: f.Prose
    is_unregistered: bool = False  # and with its registration goes what its workers share
    also: f.Held[f.WorkerId] = ()


class ArchiveChunk(Message, frozen=True):
    """Part of an archive from `offset`; the bytes are the one frame. `total_bytes` is the archive's size."""

    archive: f.ArchiveName
    offset: f.Number
    total_bytes: f.Number


class ArchiveMissing(Message, frozen=True):
    """The broker's store has no such archive."""

    archive: f.ArchiveName


class Assign(Message, frozen=True):
    """A batch to run under a lease, with its frames, and those to run after it, which are sent ahead.

    The last of the items are theirs, in the order of `ahead`.
    """

    lease: f.Number
    is_describe: bool
    items: f.OfOneBatch[AssignItem]
    ahead: f.OfOneTurn[AheadItem] = ()

    @property
    def leases(self) -> tuple[int, ...]:
        """The leases of all its batches."""
        return (self.lease, *(batch.lease for batch in self.ahead))


class CancelJobs(Message, frozen=True):
    """The clients of these jobs of a running batch have gone; their parts need not be sent any more.

    The lease goes on: the worker answers it all the same, with anything for these jobs.
    """

    lease: f.Number
    indexes: f.Numbers


class AnswerAgain(Message, frozen=True):
    """Of the leases that the worker's hello named as answered, these: send their answers once more."""

    leases: f.Numbers


WorkflowQuestion = DescribeWorkflow | ListWorkflows
Question = (
    DescribeModel | ListModels | ReadFleet | ReadMetrics | ReadHealth | ReadReadiness | ReadMembers
    | WorkflowQuestion
)  # fmt: skip
ModelChange = RegisterModel | UnregisterModel | ScaleWorkers | SetDefault
WorkflowChange = RegisterWorkflow | UnregisterWorkflow
MemberChange = Invite | EndInvitation | ChangeMember | RotateBrokerKey
Change = ModelChange | WorkflowChange | RenewKey | MemberChange
Ask = Question | Change
Made = (
    ModelRegistered | ModelUnregistered | WorkersScaled | DefaultSet | KeyRenewed
    | Invited | InvitationEnded | MemberChanged | BrokerKeyRotated
    | WorkflowRegistered | WorkflowUnregistered
)  # fmt: skip
Reply = (
    AskRefused | Made | ModelDescribed | ModelsListed | FleetRead | MetricsRead | HealthRead | ReadinessRead
    | MembersRead | WorkflowDescribed | WorkflowsListed
)  # fmt: skip
Hello = HelloGateway | HelloNode | HelloWorker
FromGateway = (
    HelloGateway | GatewayBeat | Announced | Submit | Cancel | Missed | Ask | OfferMemory | ReadsMemory | Bye
)
FromNode = (
    HelloNode | NodeLeaves | NodeBeat | NodeMeasured | WorkerProgressed | WorkerExited | WorkerKey
    | FetchArchive | Bye
)  # fmt: skip
FromWorker = (
    HelloWorker | WorkerBeat | Streamed | Completed | CompletedInRow | Measured | OfferMemory | ReadsMemory
    | Bye
)  # fmt: skip
#: What whoever was let in by an invitation may say, and is told.
FromNewcomer = Enrol
ToNewcomer = Enrolled | Leave | Misunderstood
ToPeer = Welcome | Beat | Announced | IntroduceYourself | Leave | Misunderstood
#: About memory, on one host.
OfMemory = OfferMemory | ReadsMemory | MemoryEnds
ToGateway = ToPeer | BrokerKeys | Answered | Refused | Forgotten | KeysChanged | Reply | OfMemory
ToNode = ToPeer | BrokerKeys | StartWorker | StopWorker | ArchiveChunk | ArchiveMissing
ToWorker = ToPeer | BrokerKeys | Assign | CancelJobs | Missed | AnswerAgain | OfMemory
