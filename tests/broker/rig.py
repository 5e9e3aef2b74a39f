"""A core on a bench: virtual time, peers played by the test, every message through the codec."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any, TypeVar

from tests.broker import invariants
from torchrelay.broker.core import metrics_config
from torchrelay.broker.core.effects import (
    Cut,
    DropArchive,
    Effect,
    KeepBrokerKeys,
    KeepKeys,
    Prepare,
    PrepareWorkflow,
    ReadChunk,
    Report,
    Send,
    Store,
    WriteMetrics,
    WriteSnapshot,
)
from torchrelay.broker.core.events import (
    ArchivePrepared,
    ChunkRead,
    Event,
    Garbled,
    Received,
    Started,
    Stored,
    WorkflowPrepared,
)
from torchrelay.broker.core.keyring import Keyring
from torchrelay.broker.core.machine import BrokerCore
from torchrelay.broker.core.torchserve_metrics import Line, Metrics
from torchrelay.broker.fleet.worker_claims import Claims
from torchrelay.broker.jobs import batching
from torchrelay.broker.membership.members import Members
from torchrelay.broker.membership.membership_changes import OwnKeys
from torchrelay.broker.models.catalog import Catalog
from torchrelay.broker.models.records import (
    Change,
    KeyRecord,
    MemberChange,
    Prepared,
    PreparedWorkflow,
    PutKeys,
    RememberNodes,
    Snapshot,
)
from torchrelay.broker.server import BUILT_IN_METRICS
from torchrelay.shared import clock
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.errors import ModelNotFound, RelayError, WorkflowNotFound
from torchrelay.shared.settings import BrokerSettings, LoadAtStart, StartupModel
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame
from torchrelay.shared.wire.curve import KeyPair
from torchrelay.shared.wire.fields import KeyedApi

MessageT = TypeVar("MessageT", bound=m.Message)

GATEWAY = b"g-1"
NODE = b"n-1"
CPU = m.Device("cpu", "cpu")
#: Of all lives of a test's broker.
CLAIMS = Claims(b"secret")


def settings(**changes: Any) -> BrokerSettings:  # Any: BrokerSettings' own fields, by name
    return BrokerSettings(**{"state_dir": "/nowhere", "enable_model_api": True, **changes})


def key_pair(number: int) -> KeyPair:
    """Return a pair that only looks like one."""
    return KeyPair(f"{number:064x}", f"{number:x}".rjust(64, "f"))


class MemoryRegistry:
    """A registry that survives the core but not the test."""

    def __init__(self) -> None:
        self.catalog = Catalog(Snapshot())
        self.nodes: tuple[str, ...] = ()
        self.keys: tuple[KeyRecord, ...] = ()
        self.members = Members(Snapshot(), int, now=0.0)

    def apply(self, change: Change) -> None:
        if isinstance(change, MemberChange):
            self.members.apply(change, 0.0)
            return
        self.catalog.apply(change)
        if isinstance(change, RememberNodes):
            self.nodes = change.names
        if isinstance(change, PutKeys):
            self.keys = change.keys

    def load(self) -> Snapshot:
        records = tuple(self.catalog)
        defaults = tuple((r.model, r.version) for r in records if self.catalog.is_default(r))
        members = self.members
        return Snapshot(
            records, defaults, self.nodes, self.keys, tuple(members.invitations.values()),
            tuple(members.members.values()), tuple(members._ended.values()), tuple(members.draining),
            tuple(self.catalog.workflows.values()),
        )  # fmt: skip


def batch_by_batch(message: m.Message) -> Iterator[m.Message]:
    """Yield an Assign of several batches, of which none but the first has frames, as one of each."""
    if not isinstance(message, m.Assign):
        yield message
        return
    counts = [len(message.items) - sum(batch.jobs for batch in message.ahead)]
    counts += [batch.jobs for batch in message.ahead]
    items = iter(message.items)
    for lease, jobs in zip(message.leases, counts, strict=True):
        yield m.Assign(lease, message.is_describe, tuple(islice(items, jobs)))


class Rig:
    """Drives a BrokerCore and plays its shell; `archives` maps urls to what they hold."""

    def __init__(
        self,
        broker_settings: BrokerSettings | None = None,
        *,
        metrics: type[Metrics] = Metrics,
        sequence_id: Callable[[], str] | None = None,
    ) -> None:
        self.settings = broker_settings or settings()
        self._metrics = metrics
        self._sequence_id = sequence_id
        self.now = 1000.0
        self.epoch = 0
        self.registry = MemoryRegistry()
        self.archives: dict[str, Prepared | RelayError] = {}
        self.workflows: dict[str, PreparedWorkflow | RelayError] = {}
        #: Urls of what was fetched or looked for.
        self.prepared: list[str] = []
        #: What was deleted since the last look.
        self.dropped: list[DropArchive] = []
        self.inbox: defaultdict[bytes, list[tuple[m.Message, tuple[bytes, ...]]]] = defaultdict(list)
        #: The leases of each message that gave a worker batches.
        self.sent_together: list[tuple[int, ...]] = []
        self.reports: list[Report] = []
        self.snapshots: list[WriteSnapshot] = []
        #: What each start of the broker is told to load.
        self.at_start: list[LoadAtStart | StartupModel] = []
        #: For the core to take in with its next turn.
        self._started: list[Started] = []
        #: What went into the metrics logs.
        self.lines: list[Line] = []
        self.store_error: RelayError | None = None
        #: The keys whose connections were ended.
        self.cuts: list[str] = []
        #: The broker's own; the file of them.
        self.own_keys = OwnKeys(key_pair(0)) if self.settings.asks_for_curve_keys else None
        self._pairs = map(key_pair, count(1))
        #: What the key file shows, by API.
        self.key_file: dict[KeyedApi, str] = {}
        #: Peers that don't beat, though they are here.
        self.silent: set[bytes] = set()
        self._gateways: dict[bytes, None] = {}
        #: Node -> the workers it was told to start.
        self._held: dict[bytes, set[int]] = {}
        #: Worker -> leases it has not answered; one that is told to forget them is one that lost them.
        self.leases: dict[bytes, list[int]] = {}
        #: Lease -> messages with parts that its worker has sent.
        self._streamed: Counter[int] = Counter()
        self.core: BrokerCore
        self.restart()

    def restart(self) -> None:
        """Kill the broker and start it anew from the registry."""
        self.epoch += 1
        self.inbox.clear()
        self._gateways.clear()
        self._held.clear()
        self.leases.clear()
        snapshot = self.registry.load()
        texts = (f"{self.epoch}-key-{number}" for number in count())
        keys = Keyring(self.settings, clock.wall_of(self.now, int(self.now * 1000)), lambda: next(texts))
        if keys.makes_keys:
            made = keys.open(snapshot.keys, self.key_file, self.now)
            self.registry.apply(made.change())
            self.key_file = {api: key.text for api, key in made.newest.items()}
            keys.use(made)
        metrics = self._metrics(
            metrics_config.parse(BUILT_IN_METRICS.read_bytes()),
            mode=self.settings.metrics_mode,
            auto_detect=self.settings.model_metrics_auto_detect,
            hostname="here",
        )
        names = count()
        self.core = BrokerCore(
            self.settings, snapshot, keys, metrics, epoch=self.epoch, now=self.now, wall_ms=0,
            claims=CLAIMS, new_sequence_id=self._sequence_id or (lambda: f"made-{self.epoch}-{next(names)}"),
            own_keys=self.own_keys, new_key_pair=lambda: next(self._pairs),
        )  # fmt: skip
        self.load_at_start(*self.at_start)
        self.feed()

    # Driving

    def load_at_start(self, *loads: LoadAtStart | StartupModel) -> None:
        """Have the broker start with these models, in its next turn."""
        self._started.append(Started(loads))

    def feed(self, *events: Event) -> None:
        """One turn of the server's loop, and the turns that its threads' results cause."""
        pending: list[Event] = [*self._started, *events]
        self._started.clear()
        while True:
            results: list[Event] = []
            for effect in self.core.handle(pending, now=self.now):
                self._perform(effect, results)
            invariants.check(self.core)
            if not results:
                return
            pending = results

    def say(
        self, peer: bytes, message: m.Message, frames: Sequence[Frame] = (), epoch: int | None = None
    ) -> None:
        is_hello = isinstance(message, m.Hello)
        self.feed(self.event(peer, message, frames, 0 if is_hello and epoch is None else epoch))

    def event(
        self, peer: bytes, message: m.Message, frames: Sequence[Frame] = (), epoch: int | None = None
    ) -> Received | Garbled:
        """Make the event of a message that has been through the wire's codec, as the server does."""
        head = codec.encode(message, self.epoch if epoch is None else epoch)
        try:
            decoded, sent_epoch = codec.decode(head, codec.HEAD_TO_BROKER_LIMIT_BYTES)
        except codec.WireError as error:
            return Garbled(peer, str(error))
        return Received(peer, decoded, sent_epoch, tuple(frames))

    def pass_time(self, seconds: float) -> None:
        """Let time pass: the core wakes whenever it wants to, peers that aren't silent beat."""
        end = self.now + seconds
        while (wake := self.core.next_wake()) < end:
            self.now = max(self.now, wake)
            self.feed(*self._beats())
        self.now = end
        self.feed()

    def stand_still(self, seconds: float) -> None:
        """Stop the broker for a while; its first turn after it comes before it has read anything."""
        self.now += seconds
        self.feed()

    def _beats(self) -> list[Event]:
        beats: list[Event] = [
            self.event(peer, m.GatewayBeat({})) for peer in self._gateways if peer not in self.silent
        ]
        for node, workers in self._held.items():
            if node not in self.silent:
                beats.append(self.event(node, m.NodeBeat(tuple((worker, 1) for worker in workers))))
        for worker, leases in self.leases.items():
            # One that runs a batch hears and says nothing meanwhile.
            if worker not in self.silent and (not leases or self._runs_concurrently(worker)):
                beats.append(self.event(worker, m.WorkerBeat(tuple(leases))))
        return beats

    def _runs_concurrently(self, worker: bytes) -> bool:
        known = self.core.fleet.workers.get(int(worker[2:]))
        record = self.core.catalog.get(known.key) if known else None
        return record is not None and batching.concurrent_leases(record) > 0

    def _perform(self, effect: Effect, results: list[Event]) -> None:
        match effect:
            case Send(peer, message, frames):
                decoded, epoch = codec.decode(codec.encode(message, self.core.epoch))
                assert epoch == self.epoch
                if isinstance(decoded, m.Assign):
                    self.sent_together.append(decoded.leases)
                own = tuple(bytes(codec.payload(codec.opened(f))) for f in frames)
                for one in batch_by_batch(decoded):
                    self._note_sent(peer, one)
                    if not isinstance(one, m.Beat):
                        self.inbox[peer].append((one, own))
                        own = ()
            case Prepare() | PrepareWorkflow():
                results.append(self._prepare(effect))
            case Store() | KeepKeys() | KeepBrokerKeys():
                results.append(self._make_durable(effect))
            case ReadChunk(peer, archive, offset, length):
                results.append(ChunkRead(peer, archive, offset, length, b"x" * length))
            case WriteSnapshot(token):
                self.snapshots.append(effect)
                results.append(Stored(token, None))
            case Cut() | WriteMetrics() | Report() | DropArchive():
                self._note(effect)

    def _note(self, effect: Cut | WriteMetrics | Report | DropArchive) -> None:
        match effect:
            case Cut(public_key):
                self.cuts.append(public_key)
            case WriteMetrics(lines):
                self.lines += lines
            case Report():
                self.reports.append(effect)
            case DropArchive():
                self.dropped.append(effect)

    def _prepare(self, effect: Prepare | PrepareWorkflow) -> ArchivePrepared | WorkflowPrepared:
        token, url = effect.token, effect.origin.url
        self.prepared.append(url)
        if isinstance(effect, Prepare):
            missing = ModelNotFound(f"Model not found at: {url}")
            return ArchivePrepared(token, self.archives.get(url, missing))
        unknown = WorkflowNotFound(f"Workflow not found in workflow store: {url}")
        return WorkflowPrepared(token, self.workflows.get(url, unknown))

    def _make_durable(self, effect: Store | KeepKeys | KeepBrokerKeys) -> Stored:
        if self.store_error is None:
            match effect:
                case Store(_, change):
                    self.registry.apply(change)
                case KeepKeys(_, made):
                    self.registry.apply(made.change())
                    self.key_file = {api: key.text for api, key in made.newest.items()}
        return Stored(effect.token, self.store_error)

    def _note_sent(self, peer: bytes, message: m.Message) -> None:
        match message:
            case m.StartWorker(worker_id) if peer in self._held:
                self._held[peer].add(worker_id)
            case m.Assign(lease) if peer in self.leases:
                self.leases[peer].append(lease)

    # Reading

    def take(self, peer: bytes, kind: type[MessageT]) -> list[MessageT]:
        """Take the messages of a kind out of a peer's inbox."""
        found = [message for message, _ in self.inbox[peer] if isinstance(message, kind)]
        self.inbox[peer] = [item for item in self.inbox[peer] if not isinstance(item[0], kind)]
        return found

    def attempt(self, batch: m.Assign) -> int:
        """Return which try of its first job a batch under way is."""
        return self.core.jobs.leases[batch.lease].jobs[0].attempt

    def only(self, peer: bytes, kind: type[MessageT]) -> MessageT:
        """Take the one message of a kind that a peer has."""
        found = self.take(peer, kind)
        assert len(found) == 1, f"{len(found)} {kind.__name__} for {peer!r}; inbox: {self.inbox[peer]}"
        return found[0]

    # Playing peers

    def join_gateway(self, peer: bytes = GATEWAY) -> bytes:
        self.say(peer, m.HelloGateway(m.PROTOCOL_VERSION, "gateway", 1))
        self._gateways[peer] = None
        self.only(peer, m.Welcome)
        return peer

    def join_node(
        self,
        peer: bytes = NODE,
        name: str = "",
        slots: int = 8,
        workers: tuple[m.HeldWorker, ...] = (),
        devices: tuple[m.Device, ...] = (CPU,),
        labels: Mapping[str, str] | None = None,
        memory_bytes: int = 0,
    ) -> bytes:
        self._held[peer] = {worker.worker_id for worker in workers}
        hello = m.HelloNode(m.PROTOCOL_VERSION, name or peer.decode(), devices, slots, workers,
                            tuple((labels or {}).items()), memory_bytes)  # fmt: skip
        self.say(peer, hello)
        self.only(peer, m.Welcome)
        return peer

    def lose_node(self, node: bytes) -> None:
        """Let a node and its workers be silent from now on."""
        for worker_id in self._held.pop(node):
            self.leases.pop(b"w-%d" % worker_id, None)

    def archive(
        self, url: str = "m.mar", model: str = "m", version: str = "1.0", config: ModelConfig | None = None
    ) -> str:
        sha = f"sha-{url}"
        self.archives[url] = Prepared(sha, 10, model, version, "handler", "python", "file", config)
        return url

    # Any: RegisterModel's own fields, by name
    def register(
        self, model: str = "m", version: str = "1.0", config: ModelConfig | None = None, **fields: Any
    ) -> None:
        """Register a model from the gateway, without waiting for workers unless told to."""
        url = self.archive(f"{model}-{version}.mar", model, version, config)
        ask: dict[str, Any] = {"ask": 1, "url": url, "initial_workers": 1, "synchronous": False, **fields}
        self.say(GATEWAY, m.RegisterModel(**ask))
        if not ask["synchronous"]:
            self.only(GATEWAY, m.ModelRegistered)

    def start_workers(self, node: bytes = NODE) -> list[bytes]:
        """Let a node obey its orders to start: each worker says that it is ready."""
        return [self.worker_ready(order, node) for order in self.take(node, m.StartWorker)]

    def worker_ready(
        self,
        order: m.StartWorker,
        node: bytes = NODE,
        *,
        next_serial: int = 0,
        protocol: int = m.PROTOCOL_VERSION,
    ) -> bytes:
        name = self.core.fleet.nodes[node].own_name
        return self.worker_ready_again(order, name, next_serial=next_serial, protocol=protocol)

    def worker_ready_again(
        self, order: m.StartWorker, name: str, *, next_serial: int = 0, protocol: int = m.PROTOCOL_VERSION
    ) -> bytes:
        """Let a worker say hello; its node, called `name`, need not be here. `next_serial`: it numbers."""
        peer = f"w-{order.worker_id}".encode()
        self.leases[peer] = []
        self.say(peer, m.HelloWorker(protocol, order.worker_id, name, order.model, order.version,
                                     order.archive, order.device, 77, order.claim,
                                     next_serial=next_serial))  # fmt: skip
        self.take(peer, m.Welcome)
        return peer

    def submit(self, *jobs: int, model: str = "m", version: str | None = None, gateway: bytes = GATEWAY,
               is_describe: bool = False, sequence: str = "", left_ms: int = 0) -> None:  # fmt: skip
        items = tuple(
            m.SubmitItem(job, model, version, is_describe, b"meta-%d" % job, 0, sequence, left_ms)
            for job in jobs
        )
        self.say(gateway, m.Submit(items))

    def submit_content(self, *jobs: int, content: bytes, gateway: bytes = GATEWAY, sequence: str = "",
                       **headers: str) -> None:  # fmt: skip
        """Submit requests with the same body; their ids differ, as they do in life."""
        for job in jobs:
            meta, frames = codec.pack_request(f"id-{job}", tuple(headers.items()), [("body", "", content)])
            item = m.SubmitItem(job, "m", None, False, meta, len(frames), sequence)
            self.say(gateway, m.Submit((item,)), [bytes(frame) for frame in frames])

    def stream(self, worker: bytes, lease: m.Assign, part: bytes, *indexes: int) -> None:
        """Let a worker send a part of the answers of some jobs of a batch."""
        number = self._streamed[lease.lease]
        self._streamed[lease.lease] += 1
        items = tuple(m.StreamedItem(index, part) for index in indexes)
        self.say(worker, m.Streamed(lease.lease, items, number))

    def complete(
        self, worker: bytes, lease: m.Assign, status: int = 200, ends_sequences: tuple[str, ...] = ()
    ) -> None:
        """Let a worker answer a batch with the metas it was given."""
        self.lose_lease(worker, lease)
        items = tuple(
            m.CompletedItem(status, item.meta, ends_sequences=ends_sequences) for item in lease.items
        )
        self.say(worker, m.Completed(lease.lease, 1000, items, self._streamed.pop(lease.lease, 0)))

    def lose_lease(self, worker: bytes, lease: m.Assign) -> None:
        """Let a worker know nothing of a lease any more, without a word."""
        self.leases[worker] = [number for number in self.leases[worker] if number != lease.lease]

    def exit_worker(
        self,
        worker_id: int,
        node: bytes = NODE,
        reason: str = "killed by signal 9",
        *,
        signal: int = 9,
        out_of_memory: bool = False,
        of_itself: bool = True,
    ) -> None:
        self._held[node].discard(worker_id)
        self.leases.pop(b"w-%d" % worker_id, None)
        self.say(
            node,
            m.WorkerExited(
                worker_id, None, signal, reason, out_of_memory, ("last words",), of_itself=of_itself
            ),
        )

    def ready_rig(self, workers: int = 1, **fields: Any) -> list[bytes]:  # Any: as for `register`
        """Join a gateway and a node, register `m` and start its workers; return their peers."""
        self.join_gateway()
        self.join_node()
        self.register(initial_workers=workers, **fields)
        return self.start_workers()


def held(order: m.StartWorker) -> m.HeldWorker:
    """What a node says of a worker that it was told to start."""
    return m.HeldWorker(
        order.worker_id, order.model, order.version, order.archive, order.device, 77, order.claim,
        devices=order.devices, reserved_bytes=order.reserved_bytes,
    )  # fmt: skip


def worker_hello(rig: Rig, model: str = "m", worker_id: int = 9000) -> m.HelloWorker:
    record = rig.core.catalog.resolve(model, None)
    claim = CLAIMS.make(worker_id, (model, "1.0"), record.archive)
    return m.HelloWorker(m.PROTOCOL_VERSION, worker_id, "n-1", model, "1.0", record.archive, "cpu", 5, claim)
