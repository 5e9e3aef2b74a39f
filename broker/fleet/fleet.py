"""Nodes and workers: what is wanted, what is there, and the step that closes the gap. Pure.

`reconcile` compares targets with what nodes report and returns orders; `explain` says in words why a version
hasn't what it wants.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from torchrelay.broker.core.states import LIVE, WorkerState
from torchrelay.broker.fleet import device_memory
from torchrelay.broker.fleet.comparisons import Comparisons
from torchrelay.broker.fleet.nodes import FleetNode, free_name, name_nodes
from torchrelay.broker.fleet.placement import Placement
from torchrelay.broker.fleet.restarts import Condition
from torchrelay.broker.fleet.shares import Shares
from torchrelay.broker.fleet.shortages import listed
from torchrelay.broker.fleet.version_workers import LateNodes, VersionWorkers
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.fleet.worker_claims import Claims
from torchrelay.broker.models.catalog import Key
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.wire import messages as m

#: TorchServe shows its workers' ports as ids, from this number on.
FIRST_WORKER_ID = 9000
#: Workers that one turn starts or stops at most, 60 us each; the next ones follow in the next turn.
CHANGES_PER_TURN = 50
#: Versions that haven't what is wanted of which one turn looks at all workers, 15 us each.
LOOKS_PER_TURN = 100
#: Ids of one epoch lie apart from those of the next, whose workers may still be here.
WORKER_IDS_PER_EPOCH = 10_000


class Fleet:
    """Nodes, workers and the conditions of versions."""

    def __init__(self, *, epoch: int, claims: Claims, awaited: Iterable[str], settle_until: float) -> None:
        self._claims = claims
        self.nodes: dict[bytes, FleetNode] = {}
        #: The number of the latest beat that they, and all other peers, were sent.
        self.beat = 0
        self.workers: dict[int, FleetWorker] = {}
        #: The same workers by the node that holds them; written by `_put_on_node` and `remove_worker` alone.
        self._by_node: dict[bytes, dict[int, FleetWorker]] = {}
        self.late_nodes = LateNodes(self.nodes, self._by_node)
        #: And by version; written by `enter` and `remove_worker` alone.
        self.versions: dict[Key, VersionWorkers] = {}
        self.conditions: dict[Key, Condition] = {}
        self._next_worker_id = self._first_own_id = FIRST_WORKER_ID + (epoch - 1) * WORKER_IDS_PER_EPOCH
        #: Nodes of before the broker's restart that haven't come back yet.
        self.awaited = set(awaited)
        self._settle_until = settle_until
        #: Names of nodes that get no new workers, and whose workers are replaced elsewhere.
        self.draining: set[str] = set()
        #: What nodes had that have left on purpose, or are drained: theirs again when they are back.
        self._shares = Shares()
        #: Versions whose requirements the next reconcile has installed.
        self._to_install: dict[Key, None] = {}
        self._must_reconcile = True
        #: Versions of whose workers some may have to move to another node.
        self._moving: set[Key] = set()
        #: The versions that are wanted, as they were when that was last compared.
        self._wanted: Mapping[Key, VersionRecord] = {}
        self._comparisons = Comparisons(lambda: dict.fromkeys((*self._wanted, *self.versions)))
        #: The free places, until something changes.
        self._placement: Placement | None = None

    @property
    def must_reconcile(self) -> bool:
        """Whether what is wanted or what is there has changed: the core compares them at the turn's end."""
        return self._must_reconcile

    @must_reconcile.setter
    def must_reconcile(self, is_due: bool) -> None:
        self._must_reconcile = is_due
        if is_due:
            self._placement = None

    def compare(self, key: Key) -> None:
        """Have a version compared at the end of the turn: its target or a worker of it has changed."""
        self.must_reconcile = True
        self._comparisons.note(key)

    def _compare_all(self) -> None:
        self.must_reconcile = True
        self._comparisons.is_for_all = True

    # Reading

    @property
    def staying_nodes(self) -> list[FleetNode]:
        """The nodes that are here to stay; one that has said goodbye is kept until it falls silent."""
        return [node for node in self.nodes.values() if not node.is_leaving]

    def is_draining(self, node: FleetNode) -> bool:
        """Tell whether the workers of a node are to be replaced elsewhere: it was drained, or will leave."""
        return node.leaves_at is not None or node.name in self.draining

    def takes_workers(self, node: FleetNode) -> bool:
        """Tell whether a node may get new workers."""
        return not (node.is_leaving or node.is_cut or self.is_draining(node))

    def must_move(self, worker: FleetWorker) -> bool:
        """Tell whether a worker is to be replaced by one on another node."""
        node = self.nodes.get(worker.node or b"")
        return worker.is_moving or (node is not None and not node.is_leaving and self.is_draining(node))

    def of_version(self, key: Key) -> list[FleetWorker]:
        """Return a version's workers that are not gone, oldest first."""
        workers = self.versions.get(key)
        return [] if workers is None else list(workers.by_id.values())

    def of_record(self, record: VersionRecord) -> list[FleetWorker]:
        """Return a version's workers as TorchServe shows them, with failed ones that have no successor."""
        here = self.of_version((record.model, record.version))
        missing = max(0, record.min_workers - len(here))
        failed = [w for w in self.condition((record.model, record.version)).failed_workers if w not in here]
        return [*failed[:missing], *here]

    def live(self, key: Key) -> list[FleetWorker]:
        """Return the workers that count towards the target."""
        return [w for w in self.of_version(key) if w.state in LIVE and not w.installs_only]

    def ready(self, key: Key) -> list[FleetWorker]:
        """Return the workers that take batches."""
        return [worker for worker in self.of_version(key) if worker.state is WorkerState.READY]

    def ready_count(self, key: Key) -> int:
        """Return how many workers take batches."""
        workers = self.versions.get(key)
        return 0 if workers is None else workers.count(WorkerState.READY)

    def live_count(self, key: Key) -> int:
        """Return how many workers count towards the target."""
        workers = self.versions.get(key)
        return 0 if workers is None else workers.live()

    def of_node(self, peer: bytes) -> list[FleetWorker]:
        """Return the workers that a node holds."""
        return list(self._by_node.get(peer, {}).values())

    def condition(self, key: Key) -> Condition:
        """Return the failures of a version's workers, and what restarts depend on."""
        return self.conditions.get(key) or Condition()

    def has_given_up(self, key: Key) -> bool:
        """Tell whether a version failed for so long that it isn't started again by itself."""
        condition = self.conditions.get(key)
        return condition is not None and condition.has_given_up

    def is_installing(self, key: Key) -> bool:
        """Tell whether a worker of a version is still on its way to have what the archive requires."""
        return any(w.state is WorkerState.STARTING and not w.is_loading for w in self.of_version(key))

    def is_unplaced(self, record: VersionRecord, now: float) -> bool:
        """Tell whether a version lacks every worker, and there was nowhere to start one."""
        key = record.key
        is_due = self.condition(key).next_start_at <= now and not self.has_given_up(key)
        return is_due and not (record.min_workers == 0 or self.live_count(key) or self.is_settling(now))

    def is_settling(self, now: float) -> bool:
        """Tell whether nodes of before the restart may still come back with their workers."""
        return bool(self.awaited) and now < self._settle_until

    def is_of_before(self, worker: FleetWorker) -> bool:
        """Tell whether a broker before this one had a worker started."""
        return worker.worker_id < self._first_own_id

    def explain(self, record: VersionRecord, now: float) -> str:
        """Say why a version hasn't the workers it wants; empty if it has them."""
        key = record.key
        ready, live = self.ready_count(key), self.live_count(key)
        if ready >= record.min_workers:
            return ""
        lead = f"wants {record.min_workers}, has {ready}"
        condition = self.condition(key)
        if live >= record.min_workers:
            return f"{lead}, {self._on_their_way(key)}"
        if condition.has_given_up:
            return f"{lead}, gave up after {condition.failures} failures; scale the model to try again"
        if self.is_settling(now):
            return f"{lead}, waiting for nodes {listed(sorted(self.awaited))} to come back"
        if not self.nodes:
            return f"{lead}, no node has joined; start one with `torchrelay worker --broker ADDRESS`"
        if condition.next_start_at > now:
            return f"{lead}, next start in {condition.next_start_at - now:.0f} s after a failure"
        return f"{lead}, {self.free_places().why_none(record) or self._on_their_way(key)}"

    def _on_their_way(self, key: Key) -> str:
        """Count the workers that are not ready, and say what they do or why they take no batches."""
        parts = []
        for state, words in ((WorkerState.STARTING, "starting"), (WorkerState.UNREADY, "not ready")):
            workers = [worker for worker in self.live(key) if worker.state is state]
            notes = sorted({worker.note for worker in workers if worker.note})
            if workers:
                parts.append(f"{len(workers)} {words}" + (f" ({', '.join(notes)})" if notes else ""))
        return ", ".join(parts) or "0 starting"

    def has_no_place_for(self, record: VersionRecord) -> bool:
        """Tell whether no node that is here could hold a worker of a version, were there no others."""
        if record.config.placement is None or not self.staying_nodes:
            return False
        if any(map(self.is_draining, self.staying_nodes)):
            return False  # it may be back
        places = self.free_places()
        return not places.fits(record) and places.shortages(record).is_lasting

    # What is reported

    def add_node(self, peer: bytes, hello: m.HelloNode, now: float) -> None:
        """Add a node; its workers are entered by `hold`, and when all are, `has_come` is called."""
        self._compare_all()
        known = self.nodes.get(peer)
        is_leaving = known is not None and known.is_leaving
        leaves_at = known.leaves_at if known is not None else None
        node = FleetNode(
            peer, hello.name, hello.devices, hello.slots, now, is_leaving, leaves_at,
            labels=frozenset(hello.labels), memory_bytes=hello.memory_bytes, own_name=hello.name,
            mark=hello.mark,
        )  # fmt: skip
        if known is not None and known.devices == node.devices:  # it measures anew only now and then
            node.used_bytes, node.gpus = known.used_bytes, known.gpus
            node.measured_at, node.in_use = known.measured_at, known.in_use
        is_simple = known is None and not any(other.is_leaving for other in self.nodes.values())
        if is_simple:  # as `name_nodes` would, but at once: a thousand that join take no second
            node.name = free_name(hello.name, self.nodes.values())
        self.nodes[peer] = node
        self.late_nodes.remove(peer)
        if not is_simple:
            self._name_nodes()

    def hold(self, node: FleetNode, workers: Iterable[m.HeldWorker], now: float) -> None:
        """Enter workers that a node holds, was ordered to start, and no other node holds.

        It is ordered to stop the others after its first beat.
        """
        for held in workers:
            if not self._claims.is_genuine(held):
                continue
            worker = self.workers.get(held.worker_id)
            if worker is None:
                worker = self.enter(FleetWorker(
                    held.worker_id, (held.model, held.version), held.archive, held.device, node.name,
                    node.peer, WorkerState.STARTING, since=now, last_heard=now, pid=held.pid,
                ))  # fmt: skip
                _remember(worker, held, now)
            elif worker.node is None and worker.key == (held.model, held.version):
                self._put_on_node(worker, node.peer)
                worker.node_name = node.name
                _remember(worker, held, now)

    def has_come(self, node: FleetNode) -> None:
        """Take note that all workers of a node are known."""
        self._compare_all()
        self.awaited.discard(node.name)

    def former_self(self, hello: m.HelloNode) -> FleetNode | None:
        """Return the node of which a new one shows that it has ended: only a successor can tell its mark."""
        former = (node for node in self.nodes.values() if hello.mark and node.mark == hello.mark)
        return next(former, None)

    def remove_node(self, peer: bytes) -> list[FleetWorker]:
        """Remove a node; return the workers that are lost with it."""
        self._compare_all()
        self.nodes.pop(peer, None)
        self.late_nodes.remove(peer)
        self._name_nodes()
        return self.of_node(peer)

    def cut_node(self, peer: bytes) -> None:
        """Give a node, if it is one, no new workers until it is heard: it can't be reached.

        Until its silence tells that it is gone it would else be chosen for them again and again, at once.
        """
        node = self.nodes.get(peer)
        if node is not None and not node.is_cut:
            node.is_cut = self.must_reconcile = True

    def hear_node(self, node: FleetNode, now: float) -> None:
        """Take note that a node is there."""
        node.last_heard = now
        self.late_nodes.remove(node.peer)
        if node.is_cut:
            node.is_cut = False
            self._compare_all()

    def set_draining(self, name: str, is_draining: bool) -> None:
        """Have the workers of the node of this name replaced elsewhere, or let it have new ones again."""
        self._compare_all()
        if is_draining:
            for node in [node for node in self.nodes.values() if node.name == name]:
                self._remember_share(node)
            self.draining.add(name)
        else:
            self.draining.discard(name)

    def node_will_leave(self, node: FleetNode, at: float) -> None:
        """Take note that a node was told to stop: its workers are to be replaced before `at`."""
        self._compare_all()
        self._remember_share(node)
        node.leaves_at = at

    def node_leaves(self, node: FleetNode) -> None:
        """Take note that a node said goodbye: it gets no new workers, and another may have its name."""
        self._compare_all()
        self._remember_share(node)
        node.is_leaving = True
        self._name_nodes()

    def is_node_leaving(self, worker: FleetWorker) -> bool:
        """Tell whether the node of a worker said goodbye."""
        node = self.nodes.get(worker.node or b"")
        return node is not None and node.is_leaving

    def is_node_stopping(self, worker: FleetWorker) -> bool:
        """Tell whether the node of a worker said goodbye, or was told to stop."""
        node = self.nodes.get(worker.node or b"")
        return node is not None and (node.is_leaving or node.leaves_at is not None)

    def _name_nodes(self) -> None:
        for node in name_nodes(self.nodes.values()):
            for worker in self.of_node(node.peer):
                worker.node_name = node.name

    def remove_worker(self, worker: FleetWorker) -> None:
        """Remove a worker whose process is gone."""
        self.compare(worker.key)
        del self.workers[worker.worker_id]
        if worker.node is not None:
            if node := self.nodes.get(worker.node):
                device_memory.worker_gone(node, worker)
            del self._by_node[worker.node][worker.worker_id]
            if not self._by_node[worker.node]:
                del self._by_node[worker.node]
        of_version = self.versions[worker.key]
        of_version.remove(worker)
        if not of_version.by_id:
            del self.versions[worker.key]

    def enter(self, worker: FleetWorker) -> FleetWorker:
        """Add a worker."""
        self._placement = None
        self.workers[worker.worker_id] = worker
        self._next_worker_id = max(self._next_worker_id, worker.worker_id + 1)
        of_version = self.versions.get(worker.key)
        if of_version is None:
            of_version = self.versions[worker.key] = VersionWorkers(self.late_nodes)
        of_version.add(worker)
        if worker.node is not None:
            self._put_on_node(worker, worker.node)
        return worker

    def _put_on_node(self, worker: FleetWorker, node: bytes) -> None:
        """Note which node holds a worker that had none."""
        self._placement = None
        worker.node = node
        worker.touch()
        self._by_node.setdefault(node, {})[worker.worker_id] = worker

    def free_places(self) -> Placement:
        """Return the places for workers that are free now; looked for once, until something changes."""
        if self._placement is None:
            self._placement = Placement(
                self.nodes.values(), lambda peer: self._by_node.get(peer, {}).values(), self.takes_workers
            )
        return self._placement

    def taken_bytes(self, node: FleetNode) -> Counter[str]:
        """Count the memory of a node that is taken, by device: reserved for workers, or in use if more is."""
        return device_memory.taken(node, self._by_node.get(node.peer, {}).values())

    def measured(self, node: FleetNode, measured: m.NodeMeasured, now: float) -> None:
        """Take in what a node has measured."""
        node.measured(measured.points, measured.gpus, now)
        if measured.gpus is not None:
            self._placement = None

    def forgive(self, key: Key) -> None:
        """Forget a version's failures: somebody registered or scaled it."""
        self.conditions.pop(key, None)
        self.compare(key)

    # Closing the gap

    def install(self, key: Key) -> None:
        """Have the next reconcile let a node install what a version requires, though it wants no workers."""
        self._to_install[key] = None
        self.must_reconcile = True

    def reconcile(
        self, wanted: Mapping[Key, VersionRecord], now: float
    ) -> tuple[list[FleetWorker], list[FleetWorker]]:
        """Compare targets with what is there; return new workers, entered as starting, and those to stop.

        Between min and max workers nothing happens, as in TorchServe: there is no autoscaling.
        """
        self._wanted = wanted
        self._comparisons.is_for_all = True
        every = Orders()
        while self._comparisons.is_due:
            some = self.reconcile_some(wanted, now)
            every.start += some.start
            every.stop += some.stop
        return every.start, every.stop

    def sweep(self, wanted: Mapping[Key, VersionRecord]) -> None:
        """Have versions compared that time may have changed."""
        self._wanted = wanted
        self._comparisons.sweep()
        self.must_reconcile = True

    def reconcile_some(self, wanted: Mapping[Key, VersionRecord], now: float) -> "Orders":
        """Do the same for the versions of which something has changed, as many as one turn may."""
        self._wanted = wanted
        self.must_reconcile = False
        if self._comparisons.is_for_all:
            draining = (node.peer for node in self.nodes.values() if self.is_draining(node))
            self._moving.update(worker.key for peer in draining for worker in self.of_node(peer))
        orders = Orders(self._comparisons.take())
        self._move_shares_back(wanted, orders.compared, now)
        for key in orders.compared:
            record = wanted.get(key)
            if orders.room <= 0 or orders.looks == LOOKS_PER_TURN:
                self._comparisons.note(key)
            elif record is None:
                self._stop_all(key, orders)
            else:
                self._compare(record, orders, now)
        for key in [key for key in self._to_install if key in wanted]:
            orders.start += self._place(wanted[key], 1, now, installs_only=True)
        self._to_install.clear()
        if orders.start:
            self._placement = None
        self._must_reconcile = self._comparisons.is_due
        orders.done = [key for key in orders.compared if not self._comparisons.is_noted(key)]
        return orders

    def _stop_all(self, key: Key, orders: "Orders") -> None:
        """Stop the workers of a version that is not wanted any more."""
        self._moving.discard(key)
        live = [worker for worker in self.of_version(key) if worker.state in LIVE]
        if len(live) > orders.room:
            self._comparisons.note(key)
        orders.stop += live[: orders.room]

    def _compare(self, record: VersionRecord, orders: "Orders", now: float) -> None:
        """Compare the target of a version with what is there."""
        key, archive = record.key, record.archive
        workers = self.versions.get(key)
        if workers is not None and workers.has_others(archive):
            others = [one for one in workers.by_id.values() if one.state in LIVE and one.archive != archive]
            orders.stop += others
        count = 0 if workers is None else workers.live(archive)
        if key not in self._moving and record.min_workers <= count <= record.max_workers:
            return
        orders.looks += 1
        live = [worker for worker in self.live(key) if worker.archive == archive]
        moving: list[FleetWorker] = []
        if key in self._moving or len(live) > record.max_workers:
            # First what costs least to stop: not ready yet, then idle, then newest.
            live.sort(key=lambda w: (w.state is WorkerState.READY, len(w.leases), -w.worker_id))
            moving = [worker for worker in live if self.must_move(worker)]
        staying = [worker for worker in live if not self.must_move(worker)] if moving else live
        surplus = staying[: max(0, len(staying) - record.max_workers)]
        is_cut_short = len(surplus) > orders.room
        orders.stop += surplus[: max(0, orders.room)]
        missing = record.min_workers - len(staying)
        may_start = missing > 0 and not (self.is_settling(now) or self.has_given_up(key))
        if may_start and self.condition(key).next_start_at <= now:
            count = max(0, min(missing, orders.room))
            placed = self._place(record, count, now)
            orders.start += placed
            staying = [*staying, *placed]
            missing -= len(placed)
            is_cut_short = missing > 0 and len(placed) == count
            if not is_cut_short:
                staying += self._stay_here(moving, missing)
                missing = 0  # for the others there is no place
        if moving:
            orders.stop += self._replaced(record, moving, staying, missing)
        else:
            self._moving.discard(key)
        if is_cut_short:
            self._comparisons.note(key)
        elif moving or len(staying) < record.min_workers:
            self._comparisons.note_unsettled(key)

    def _stay_here(self, moving: list[FleetWorker], count: int) -> list[FleetWorker]:
        """Let up to `count` of these workers stay for which no other place was found, if their node does."""
        stay = [worker for worker in moving if worker.is_moving][:count]
        for worker in stay:
            worker.is_moving = False
        stay = [worker for worker in stay if not self.must_move(worker)]
        moving[:] = [worker for worker in moving if worker not in stay]
        return stay

    def _replaced(
        self, record: VersionRecord, moving: list[FleetWorker], staying: list[FleetWorker], missing: int
    ) -> list[FleetWorker]:
        """Return which of the workers that are to move may go: those that nobody is still to replace.

        `staying` are the others, with those that are starting in their place; `missing` more will be started.
        """
        ready = sum(worker.state is WorkerState.READY for worker in staying)
        kept = max(0, min(record.min_workers - ready, len(staying) - ready + max(0, missing)))
        going = moving[: max(0, len(moving) - kept)]
        # One that isn't ready serves nobody, wherever its successor is.
        going += [worker for worker in moving[len(going) :] if worker.state is not WorkerState.READY]
        return going

    def _remember_share(self, node: FleetNode) -> None:
        """Note what a node has, unless it is on its way already."""
        if self.takes_workers(node):
            live = (one for one in self.of_node(node.peer) if one.state in LIVE and not one.installs_only)
            self._shares.remember(node.name, live)

    def _move_shares_back(
        self, wanted: Mapping[Key, VersionRecord], keys: Collection[Key], now: float
    ) -> None:
        """Let nodes that are back have workers again that went elsewhere, one of a version at a time.

        The first free place of a version is on a node that has none of its workers.
        """
        if not self._shares or self.is_settling(now):
            return
        looked_at = frozenset(keys)
        for node in self.nodes.values():
            if not self.takes_workers(node) or len(self._by_node.get(node.peer, ())) >= node.slots:
                continue
            for key in looked_at.intersection(self._shares.of(node.name)):
                record, live = wanted.get(key), self.live(key)
                if record is None or not _is_spread(record):
                    self._shares.forget(node.name, key)
                elif len(live) == record.min_workers and all(map(self._is_settled, live)):
                    self._shares.next_to_move(node.name, key, node.peer, live)
                    self._moving.add(key)

    def _is_settled(self, worker: FleetWorker) -> bool:
        return worker.state is WorkerState.READY and not self.must_move(worker)

    def _place(
        self,
        record: VersionRecord,
        count: int,
        now: float,
        *,
        installs_only: bool = False,
    ) -> list[FleetWorker]:
        placed = []
        key = record.key
        wish = record.config.placement
        condition = self.condition(key)
        here = Counter(worker.node for worker in self.of_version(key))
        placement = self.free_places()
        places = placement.place(
            record, count, failed_on=condition.failed_on, here=here, installs_only=installs_only
        )
        for node, devices in places:
            placed.append(self.enter(FleetWorker(
                self._next_worker_id, key, record.archive, devices[0], node.name, node.peer,
                WorkerState.STARTING, since=now, last_heard=now, devices=devices, installs_only=installs_only,
                reserved_bytes=wish.memory_bytes if wish and not installs_only else 0,
            )))  # fmt: skip
            if condition.failed_workers:
                condition.failed_workers.pop(0)
        self._placement = placement  # it knows of them
        return placed


@dataclass(slots=True)
class Orders:
    """What a turn found that compared targets with workers."""

    #: The versions that it compared.
    compared: list[Key] = field(default_factory=list)
    #: Workers that were entered as starting, and those to stop.
    start: list[FleetWorker] = field(default_factory=list)
    stop: list[FleetWorker] = field(default_factory=list)
    #: Versions that had not just what is wanted.
    looks: int = 0
    #: Those of the versions of which nothing is left for the next turn.
    done: list[Key] = field(default_factory=list)

    @property
    def room(self) -> int:
        """How many more workers the turn may start or stop."""
        return CHANGES_PER_TURN - len(self.start) - len(self.stop)


def _is_spread(record: VersionRecord) -> bool:
    return record.config.placement is None or record.config.placement.strategy != "pack"


def _remember(worker: FleetWorker, held: m.HeldWorker, now: float) -> None:
    """Take from its node what was kept for a worker that an earlier broker had started."""
    worker.devices, worker.reserved_bytes = held.devices, held.reserved_bytes
    worker.loaded_at = now  # most have loaded long ago, and are in what the node measures next
