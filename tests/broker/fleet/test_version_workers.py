"""Which worker of a version goes first: as the plain rule says, which looks at all of them."""

from typing import cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from tests.broker.fleet.fleets import empty_fleet, join
from torchrelay.broker.core.states import LIVE, WORKER_MOVES, WorkerState
from torchrelay.broker.fleet.version_workers import VersionWorkers
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.jobs.queues import Lease

KEY = ("m", "1.0")
NODES = ("n-1", "n-2", "n-3")
#: A node that was not heard for longer than this is late.
LATE_AFTER_S = 2.0


def plain_rule(machine: "Ranks", *, kept: int, prove_first: bool, spares_late: bool) -> FleetWorker | None:
    """Return the worker that goes first, by looking at each."""
    ranks: list[tuple[tuple[int, bool, bool, float, int], FleetWorker]] = []
    for worker in machine.workers:
        if worker.state is not WorkerState.READY or worker.is_cut or worker.worker_id == kept:
            continue
        if prove_first and worker.leases and not worker.has_answered:
            continue
        node = machine.fleet.nodes.get(worker.node or b"")
        is_late = node is not None and node.last_heard < machine.now - LATE_AFTER_S
        if is_late and spares_late:
            continue
        is_proved = prove_first and worker.has_answered
        rank = (len(worker.leases), is_late, is_proved, -worker.last_assigned_at, worker.worker_id)
        ranks.append((rank, worker))
    return min(ranks, key=lambda one: one[0])[1] if ranks else None


class Ranks(RuleBasedStateMachine):
    """Workers to which everything happens that ranks them."""

    drawn = Bundle("drawn")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0
        self.fleet = empty_fleet()
        self.workers: list[FleetWorker] = []
        for name in NODES:
            join(self.fleet, name, now=self.now)

    @property
    def ranked(self) -> VersionWorkers:
        return self.fleet.versions[KEY]

    @rule(target=drawn, node=st.sampled_from((*NODES, None)))
    def start(self, node: str | None) -> FleetWorker:
        worker = FleetWorker(
            self.fleet._next_worker_id, KEY, "sha", "cpu", node or "", node.encode() if node else None,
            WorkerState.STARTING, since=self.now, last_heard=self.now, peer=b"w",
        )  # fmt: skip
        self.workers.append(self.fleet.enter(worker))
        return worker

    @rule(worker=drawn, data=st.data())
    def move(self, worker: FleetWorker, data: st.DataObject) -> None:
        legal = sorted(WORKER_MOVES[worker.state] - {WorkerState.GONE})
        if legal:
            worker.move(data.draw(st.sampled_from(legal)), self.now)

    @rule(worker=consumes(drawn))
    def remove(self, worker: FleetWorker) -> None:
        worker.move(WorkerState.GONE, self.now)
        self.fleet.remove_worker(worker)
        self.workers.remove(worker)

    @rule(worker=drawn)
    def assign(self, worker: FleetWorker) -> None:
        self._give(worker)

    def _give(self, worker: FleetWorker) -> None:
        worker.leases.append(cast("Lease", object()))
        worker.last_assigned_at = self.now
        worker.touch()

    @precondition(lambda self: KEY in self.fleet.versions)
    @rule(count=st.integers(1, 4))
    def assign_to_the_best(self, count: int) -> None:
        for _ in range(count):
            best = self.ranked.best(self.now - LATE_AFTER_S, kept=0, prove_first=False)
            if best is not None:
                self._give(best)

    @rule(worker=drawn, has_answered=st.booleans())
    def end_lease(self, worker: FleetWorker, has_answered: bool) -> None:
        if worker.leases:
            worker.leases.pop()
            worker.has_answered |= has_answered
            worker.touch()

    @rule(worker=drawn, is_cut=st.booleans())
    def cut(self, worker: FleetWorker, is_cut: bool) -> None:
        worker.is_cut = is_cut
        worker.touch()

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=st.sampled_from(NODES))
    def hear(self, name: str) -> None:
        if node := self.fleet.nodes.get(name.encode()):
            node.last_heard = self.now
            self.fleet.late_nodes.remove(node.peer)
        else:
            join(self.fleet, name, now=self.now)

    @rule(name=st.sampled_from(NODES))
    def lose_node(self, name: str) -> None:
        """Its workers stay for the moment."""
        self.fleet.remove_node(name.encode())

    @precondition(lambda self: KEY in self.fleet.versions)
    @rule(data=st.data(), prove_first=st.booleans(), spares_late=st.booleans())
    def choose(self, data: st.DataObject, prove_first: bool, spares_late: bool) -> None:
        kept = data.draw(st.sampled_from([0, *(worker.worker_id for worker in self.workers)]))
        best = self.ranked.best(
            self.now - LATE_AFTER_S, kept=kept, prove_first=prove_first, spares_late=spares_late
        )
        by_rule = plain_rule(self, kept=kept, prove_first=prove_first, spares_late=spares_late)
        assert best is by_rule, (best, by_rule)

    @invariant()
    def counts_are_those_of_all_workers(self) -> None:
        if KEY not in self.fleet.versions:
            assert not self.workers
            return
        ready = [worker for worker in self.workers if worker.state is WorkerState.READY]
        assert self.ranked.count(WorkerState.READY) == len(ready)
        assert self.ranked.reachable == sum(not worker.is_cut for worker in ready)
        assert self.ranked.live() == sum(worker.state in LIVE for worker in self.workers)
        assert self.ranked.live("sha") == self.ranked.live()
        assert self.ranked.live("other") == 0


TestRanks = Ranks.TestCase
TestRanks.settings = settings(max_examples=60, stateful_step_count=40)
