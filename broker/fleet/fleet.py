"""Nodes and workers: what is wanted, what is there, and the step that closes the gap.

Pure: `reconcile` compares targets with what nodes report and returns orders; `explain` says in words
why a version hasn't what it wants. Leases hang on workers here, but are `machine`'s business.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torchrelay.broker.core.states import LIVE, WorkerState, check_move
from torchrelay.broker.fleet.placement import Placement, gpu_id
from torchrelay.broker.fleet.worker_claims import Claims
from torchrelay.broker.jobs.queues import Lease
from torchrelay.broker.models.catalog import Key
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.wire import messages as m

#: Seconds before the next start, by failures in a row; TorchServe's sequence behind a first try at once.
BACKOFF_S = (0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597)
#: A worker that has been ready so long has proved itself: earlier failures are forgiven.
PROVEN_AFTER_S = 30.0
#: TorchServe shows its workers' ports as ids, from this number on.
FIRST_WORKER_ID = 9000
#: Ids of one epoch lie apart from those of the next, whose workers may still be here.
WORKER_IDS_PER_EPOCH = 10_000


@dataclass(slots=True, eq=False)
class Node:
    """A node that is here."""

    peer: bytes
    name: str
    devices: tuple[m.Device, ...]
    slots: int
    last_heard: float
    #: It said goodbye: its workers finish what they have, and it gets no new ones.
    is_leaving: bool = False
    #: The host's memory in use as it last measured; None until it does.
    used_bytes: int | None = None
    #: What its GPUs had to do when it last measured, by device.
    gpus: dict[str, m.GpuUse] = field(default_factory=dict)
    #: What it calls itself; `name` differs where another node has taken that, see `Fleet.name_nodes`.
    own_name: str = ""


@dataclass(slots=True, eq=False)
class Worker:
    """One replica, from the order to start it until its process is gone."""

    worker_id: int
    key: Key
    archive: str
    device: str
    node_name: str
    #: The node's peer id; None while a worker is here before its node is (after a broker's restart).
    node: bytes | None
    state: WorkerState
    #: When it came into `state`.
    since: float
    last_heard: float
    #: When the broker first knew of it.
    started_at: float = field(init=False)
    #: Its own peer id, once it has said hello.
    peer: bytes | None = None
    pid: int = -1
    memory_bytes: int = 0
    note: str = ""
    #: Its connection was found broken, and it has not been heard since: it gets no batch.
    is_cut: bool = False
    #: In the order they were given; which of them run, each says.
    leases: list[Lease] = field(default_factory=list)
    last_assigned_at: float = 0.0
    #: While draining: when patience ends. None waits for the batch however long it takes.
    drain_until: float | None = None
    #: All devices of one that was started here; `device` is the first.
    devices: tuple[str, ...] = ()
    #: The order to stop it went out at, for repeating it should it get lost.
    stop_sent_at: float = 0.0
    #: It has answered a batch, whatever it said.
    has_answered: bool = False
    #: It ends once what its archive requires is installed, and counts towards no target.
    installs_only: bool = False

    def __post_init__(self) -> None:
        self.started_at = self.since

    def move(self, new: WorkerState, now: float) -> None:
        """Change the state by the table of legal moves."""
        check_move(self.state, new, self)
        self.state = new
        self.since = now

    @property
    def gpu_id(self) -> int | None:
        """The number of its GPU, None on a cpu."""
        return gpu_id(self.device)

    @property
    def gpu_ids(self) -> tuple[int, ...]:
        """The numbers of all its GPUs."""
        return tuple(number for device in self.devices if (number := gpu_id(device)) is not None)


@dataclass(slots=True)
class Condition:
    """How a version's workers fare: what restarts depend on."""

    failures: int = 0
    first_failure_at: float = 0.0
    last_failure_at: float = 0.0
    #: The latest failure came when the version had failed for too long.
    has_given_up: bool = False
    next_start_at: float = 0.0
    last_error: str = ""
    is_out_of_memory: bool = False
    #: It got no further than installing the packages that its archive names.
    failed_installing: bool = False
    #: Workers that have failed and not been replaced yet, oldest first.
    failed_workers: list[Worker] = field(default_factory=list)
    #: Failures by node name; other nodes come first.
    failed_on: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Orders:
    """What one reconcile step wants: workers (already entered as starting) to start, others to stop."""

    start: tuple[tuple[Worker, VersionRecord], ...]
    stop: tuple[Worker, ...]


class Fleet:
    """Nodes, workers and the conditions of versions."""

    def __init__(self, *, epoch: int, claims: Claims, awaited: Iterable[str], settle_until: float) -> None:
        self._claims = claims
        self.nodes: dict[bytes, Node] = {}
        #: The number of the latest beat that they, and all other peers, were sent.
        self.beat = 0
        self.workers: dict[int, Worker] = {}
        #: The same workers by version; written by `_enter` and `remove_worker` alone.
        self._by_version: dict[Key, dict[int, Worker]] = {}
        #: And by the node that holds them; written by `_put_on_node` and `remove_worker` alone.
        self._by_node: dict[bytes, dict[int, Worker]] = {}
        self.conditions: dict[Key, Condition] = {}
        self._next_worker_id = FIRST_WORKER_ID + (epoch - 1) * WORKER_IDS_PER_EPOCH
        #: Nodes of before the broker's restart that haven't come back yet.
        self._awaited = set(awaited)
        self._settle_until = settle_until
        #: Versions whose requirements the next reconcile has installed.
        self._to_install: dict[Key, None] = {}
        #: What is wanted or what is there has changed: the core compares them at the end of the turn.
        self.must_reconcile = True

    # Reading

    def of_version(self, key: Key) -> list[Worker]:
        """Return a version's workers that are not gone, oldest first."""
        return list(self._by_version.get(key, {}).values())

    def of_record(self, record: VersionRecord) -> list[Worker]:
        """Return a version's workers as TorchServe shows them, with failed ones that have no successor."""
        here = self.of_version((record.model, record.version))
        missing = max(0, record.min_workers - len(here))
        failed = [w for w in self.condition((record.model, record.version)).failed_workers if w not in here]
        return [*failed[:missing], *here]

    def live(self, key: Key) -> list[Worker]:
        """Return the workers that count towards the target."""
        return [w for w in self.of_version(key) if w.state in LIVE and not w.installs_only]

    def ready(self, key: Key) -> list[Worker]:
        """Return the workers that take batches."""
        return [worker for worker in self.of_version(key) if worker.state is WorkerState.READY]

    def of_node(self, peer: bytes) -> list[Worker]:
        """Return the workers that a node holds."""
        return list(self._by_node.get(peer, {}).values())

    def may_hold(self, node: Node, worker_id: int) -> bool:
        """Tell whether an id is that of a worker which is here, and no other node's."""
        worker = self.workers.get(worker_id)
        return worker is not None and worker.node in (None, node.peer)

    def condition(self, key: Key) -> Condition:
        """Return how a version's workers fare."""
        return self.conditions.get(key) or Condition()

    def has_given_up(self, key: Key) -> bool:
        """Tell whether a version failed for so long that it isn't started again by itself."""
        condition = self.conditions.get(key)
        return condition is not None and condition.has_given_up

    def is_installing(self, key: Key) -> bool:
        """Tell whether a worker of a version is still on its way to have what the archive requires."""
        return any(w.state is WorkerState.STARTING and w.note != "loading" for w in self.of_version(key))

    def is_settling(self, now: float) -> bool:
        """Tell whether nodes of before the restart may still come back with their workers."""
        return bool(self._awaited) and now < self._settle_until

    def explain(self, record: VersionRecord, now: float) -> str:
        """Say why a version hasn't the workers it wants; empty if it has them."""
        key = (record.model, record.version)
        ready, live = len(self.ready(key)), len(self.live(key))
        if ready >= record.min_workers:
            return ""
        lead = f"wants {record.min_workers}, has {ready}"
        condition = self.condition(key)
        if live >= record.min_workers:
            notes = sorted({w.note for w in self.live(key) if w.state is WorkerState.STARTING and w.note})
            return f"{lead}, {live - ready} starting" + (f" ({', '.join(notes)})" if notes else "")
        if self.has_given_up(key):
            return f"{lead}, gave up after {condition.failures} failures; scale the model to try again"
        if self.is_settling(now):
            return f"{lead}, waiting for nodes {', '.join(sorted(self._awaited))} to come back"
        if not self.nodes:
            return f"{lead}, no node has joined; start one with `torchrelay worker --broker ADDRESS`"
        if condition.next_start_at > now:
            return f"{lead}, next start in {condition.next_start_at - now:.0f} s after a failure"
        placement = self._placement()
        if placement.is_full:
            slots = sum(node.slots for node in self.nodes.values())
            return f"{lead}, all {slots} slots of the fleet are taken; add a node or raise --slots"
        if not placement.fits(record):
            ids = f" of deviceIds {list(record.config.device_ids)}" if record.config.device_ids else ""
            gpus = f"{record.config.gpus} GPU{'s' if record.config.gpus > 1 else ''}"
            return f"{lead}, no node with a free slot has {gpus}{ids} for each"
        return f"{lead}, {live - ready} starting"

    # What is reported

    def add_node(self, peer: bytes, hello: m.HelloNode, now: float) -> None:
        """Take in a node, and the workers it holds that it was told to start and are no other node's.

        Of others it is told by its first beat that it has to stop them.
        """
        self.must_reconcile = True
        known = self.nodes.get(peer)
        is_leaving = known is not None and known.is_leaving
        node = Node(peer, hello.name, hello.devices, hello.slots, now, is_leaving, own_name=hello.name)
        if known is None and not any(other.is_leaving for other in self.nodes.values()):
            # As `name_nodes` would: the others keep their names, and a thousand that join take no second.
            taken = {other.name for other in self.nodes.values()}
            node.name = next(name for name in _names(hello.name) if name not in taken)
            self.nodes[peer] = node
        else:
            self.nodes[peer] = node
            self.name_nodes()
        self._awaited.discard(node.name)
        for held in hello.workers:
            worker = self.workers.get(held.worker_id)
            if not self._claims.is_genuine(held):
                continue
            if worker is None:
                self._enter(Worker(
                    held.worker_id, (held.model, held.version), held.archive, held.device, node.name,
                    peer, WorkerState.STARTING, since=now, last_heard=now, pid=held.pid,
                ))  # fmt: skip
            elif worker.node is None and worker.key == (held.model, held.version):
                self._put_on_node(worker, peer)
                worker.node_name = node.name

    def add_worker(self, peer: bytes, hello: m.HelloWorker, now: float) -> Worker | None:
        """Enter a worker that says it is ready.

        None if it has been told to stop, or if another process already is what it says to be.
        """
        worker = self.workers.get(hello.worker_id)
        if worker is not None and not _is_who_it_says(worker, peer, hello):
            return None
        if worker is None:
            # Which node holds it, that node will say.
            worker = self._enter(Worker(
                hello.worker_id, (hello.model, hello.version), hello.archive, hello.device, hello.node,
                None, WorkerState.STARTING, since=now, last_heard=now,
            ))  # fmt: skip
        if worker.state not in LIVE and worker.state is not WorkerState.DRAINING:
            return None
        if worker.state is WorkerState.STARTING:
            worker.move(WorkerState.READY, now)
        worker.peer, worker.pid, worker.note, worker.last_heard = peer, hello.pid, "", now
        self.must_reconcile = True
        return worker

    def remove_node(self, peer: bytes) -> list[Worker]:
        """Drop a node; return the workers that are lost with it."""
        self.must_reconcile = True
        self.nodes.pop(peer, None)
        self.name_nodes()
        return self.of_node(peer)

    def name_nodes(self) -> None:
        """Call each node by a name of its own: who comes second is `name-2`, until the first one leaves.

        So a node that restarts has its name again as soon as its former self is seen to be gone.
        """
        taken: set[str] = set()
        #: The names that are left for the next of a name; going on there keeps a thousand namesakes cheap.
        left: dict[str, Iterator[str]] = {}
        for node in sorted(self.nodes.values(), key=lambda node: node.is_leaving):
            names = left.get(node.own_name)
            if names is None:
                names = left[node.own_name] = _names(node.own_name)
            name = next(name for name in names if name not in taken)
            taken.add(name)
            if name != node.name:
                node.name = name
                for worker in self.of_node(node.peer):
                    worker.node_name = name

    def remove_worker(self, worker: Worker, now: float) -> None:
        """Drop a worker whose process is gone."""
        self.must_reconcile = True
        worker.move(WorkerState.GONE, now)
        worker.memory_bytes = 0
        del self.workers[worker.worker_id]
        if worker.node is not None:
            del self._by_node[worker.node][worker.worker_id]
            if not self._by_node[worker.node]:
                del self._by_node[worker.node]
        del self._by_version[worker.key][worker.worker_id]
        if not self._by_version[worker.key]:
            del self._by_version[worker.key]

    def _enter(self, worker: Worker) -> Worker:
        self.workers[worker.worker_id] = worker
        self._next_worker_id = max(self._next_worker_id, worker.worker_id + 1)
        self._by_version.setdefault(worker.key, {})[worker.worker_id] = worker
        if worker.node is not None:
            self._put_on_node(worker, worker.node)
        return worker

    def _put_on_node(self, worker: Worker, node: bytes) -> None:
        """Note which node holds a worker that had none."""
        worker.node = node
        self._by_node.setdefault(node, {})[worker.worker_id] = worker

    def _placement(self) -> Placement:
        return Placement(self.nodes.values(), lambda peer: self._by_node.get(peer, {}).values())

    def count_failure(
        self,
        worker: Worker,
        reason: str,
        *,
        out_of_memory: bool,
        is_excused: bool,
        now: float,
        window_s: float,
    ) -> None:
        """Remember that a worker ended unasked, and set when the next may start.

        One that fails when the version has failed for `window_s` is the last. With `is_excused` it was a
        request that ended it, of a version that answers others: the next starts at once.
        """
        self.must_reconcile = True
        condition = self.conditions.setdefault(worker.key, Condition())
        was_ready = worker.state is not WorkerState.STARTING
        is_installing = not was_ready and (worker.installs_only or worker.note == "installing")
        condition.last_error = worker.note = reason
        condition.is_out_of_memory = out_of_memory
        condition.failed_workers.append(worker)
        if is_excused:
            return
        if was_ready and now - worker.since >= PROVEN_AFTER_S:
            condition.failures = 0
        if condition.failures == 0:
            condition.first_failure_at = now
        condition.failures += 1
        # A worker that never became ready waits from the first failure on.
        step = condition.failures - 1 if was_ready else condition.failures
        condition.next_start_at = now + BACKOFF_S[min(step, len(BACKOFF_S) - 1)]
        condition.last_failure_at = now
        condition.has_given_up = now - condition.first_failure_at >= window_s
        condition.failed_installing = is_installing
        condition.failed_on[worker.node_name] = condition.failed_on.get(worker.node_name, 0) + 1

    def count_success(self, worker: Worker) -> None:
        """Forgive failures if a worker started since has answered a batch; an older one proves nothing."""
        worker.has_answered = True
        condition = self.conditions.get(worker.key)
        if condition and condition.failures and worker.started_at >= condition.last_failure_at:
            condition.failures = 0
            condition.failed_on.clear()

    def forgive(self, key: Key) -> None:
        """Start afresh: somebody registered or scaled the version."""
        self.conditions.pop(key, None)
        self.must_reconcile = True

    # Closing the gap

    def install(self, key: Key) -> None:
        """Have the next reconcile let a node install what a version requires, though it wants no workers."""
        self._to_install[key] = None
        self.must_reconcile = True

    def reconcile(self, wanted: Mapping[Key, VersionRecord], now: float) -> Orders:
        """Compare targets with what is there; enter new workers as starting, name those to stop.

        Between min and max workers nothing happens, as in TorchServe: there is no autoscaling.
        """
        self.must_reconcile = False
        start: list[tuple[Worker, VersionRecord]] = []
        stop = [
            worker
            for worker in self.workers.values()
            if worker.state in LIVE
            and ((record := wanted.get(worker.key)) is None or record.archive != worker.archive)
        ]
        placement = self._placement()
        for key, record in wanted.items():
            live = [worker for worker in self.live(key) if worker.archive == record.archive]
            if len(live) > record.max_workers:
                stop += self._newest_and_idlest(live)[: len(live) - record.max_workers]
            missing = record.min_workers - len(live)
            if missing > 0 and not self.is_settling(now) and self._may_start(key, now):
                start += self._place(placement, record, missing, now)
        for key in [key for key in self._to_install if key in wanted]:
            start += self._place(placement, wanted[key], 1, now, installs_only=True)
        self._to_install.clear()
        return Orders(tuple(start), tuple(stop))

    def _may_start(self, key: Key, now: float) -> bool:
        return self.condition(key).next_start_at <= now and not self.has_given_up(key)

    def _newest_and_idlest(self, workers: list[Worker]) -> list[Worker]:
        """Order by what is lost least: not ready yet, then idle, then newest."""
        return sorted(
            workers,
            key=lambda w: (w.state is WorkerState.READY, len(w.leases), -w.worker_id),
        )

    def _place(
        self,
        placement: Placement,
        record: VersionRecord,
        count: int,
        now: float,
        *,
        installs_only: bool = False,
    ) -> list[tuple[Worker, VersionRecord]]:
        placed = []
        key = (record.model, record.version)
        condition = self.condition(key)
        here = Counter(worker.node for worker in self.of_version(key))
        for node, devices in placement.place(record, count, failed_on=condition.failed_on, here=here):
            worker = self._enter(Worker(
                self._next_worker_id, key, record.archive, devices[0], node.name, node.peer,
                WorkerState.STARTING, since=now, last_heard=now, devices=devices, installs_only=installs_only,
            ))  # fmt: skip
            placed.append((worker, record))
            if condition.failed_workers:
                condition.failed_workers.pop(0)
        return placed


def _names(own_name: str) -> Iterator[str]:
    """Yield what nodes of one name are called, in turn."""
    yield own_name
    for number in itertools.count(2):
        yield f"{own_name}-{number}"


def _is_who_it_says(worker: Worker, peer: bytes, hello: m.HelloWorker) -> bool:
    """Tell whether a peer may be the worker whose id it gives: its model's, and no other peer's."""
    is_its_model = worker.key == (hello.model, hello.version) and worker.archive == hello.archive
    return is_its_model and worker.peer in (None, peer)
