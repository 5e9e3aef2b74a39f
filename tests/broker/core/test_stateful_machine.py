"""The core under any order of events: hypothesis plays gateways, nodes, workers and the clock.

`invariants.check` runs after every turn (the rig does it); the rules here add what only an onlooker can
know: nobody is answered twice, parts come in order and never after the end, what has begun to be
answered is not run again, nothing is run more often than is promised, sequences keep their order, and in the
end everybody is answered.
"""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.broker.rig import Rig, held, settings
from torchrelay.broker.core.events import Unreachable
from torchrelay.broker.jobs import batching
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import messages as m

GATEWAYS = (b"g-1", b"g-2")
NODES = ("n-1", "n-2")
MODELS = ("a", "b")
VERSIONS = ("1.0", "2.0")
SEQUENCES = ("", "s", "t")
#: attempt_limit, and the one try more of what ran beside others, or maybe never began.
RUNS_MAX = 3

_SEQUENTIAL = ModelConfig(sequence_batching=True, sequence_max_idle_ms=3000, sequence_timeout_ms=10_000,
                          max_sequence_queue_jobs=3, max_sequences=2)  # fmt: skip
CONFIGS = {
    "plain": None,
    "continuous": ModelConfig(continuous_batching=True),
    "async": ModelConfig(async_communication=True),
    "sequences": _SEQUENTIAL,
    "sequences, continuous": ModelConfig(sequence_batching=True, sequence_max_idle_ms=3000,
                                         max_sequence_queue_jobs=3, continuous_batching=True),
    "tickets": ModelConfig(use_job_ticket=True),
    "impatient clients": ModelConfig(client_timeout_ms=1500),
}  # fmt: skip


@dataclass
class Wish:
    """What a client waits for, and how much of its answer has come."""

    model: str
    sequence: str
    is_describe: bool
    parts: int = 0


@dataclass
class Player:
    """A worker process, seen from outside."""

    order: m.StartWorker
    node: str
    #: Leases it has not answered, oldest first, and how often each has streamed.
    held: list[m.Assign] = field(default_factory=list)
    streamed: dict[int, int] = field(default_factory=dict)
    #: Parts sent, by lease and index.
    parts: Counter[tuple[int, int]] = field(default_factory=Counter)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(settings(job_queue_size=5, restart_window_s=20, settle_s=1.0))
        self.jobs = 0
        #: Submitted and neither answered nor cancelled, by (gateway, job).
        self.waiting: dict[tuple[bytes, int], Wish] = {}
        self.workers: dict[bytes, Player] = {}
        self.orders: list[tuple[str, m.StartWorker]] = []
        #: Node name -> its peer id of now; a node that comes back has another.
        self.nodes: dict[str, bytes] = {}
        self.lives = 0
        #: Jobs that were begun to be answered, whatever became of them.
        self.begun: set[bytes] = set()
        #: How often workers of this broker may have begun a job.
        self.runs: Counter[bytes] = Counter()
        #: The latest job given to a worker, by model, version and sequence.
        self.latest: dict[tuple[str, str, str], int] = {}

    @initialize(config=st.sampled_from(sorted(CONFIGS)), batch_size=st.sampled_from((1, 3)))
    def a_fleet_is_there_and_has_workers(self, config: str, batch_size: int) -> None:
        for gateway in GATEWAYS:
            self.rig.join_gateway(gateway)
        for name in NODES:
            self._join_node(name)
        self._register("a", "1.0", 2, batch_size, 0, config)
        self.workers_come_up(fail=0)

    # What the peers see

    def _see(self) -> None:
        for gateway in GATEWAYS:
            for message in self.rig.take(gateway, m.Answered):
                for item in message.items:
                    self._answered(gateway, item)
            for refused in self.rig.take(gateway, m.Refused):
                for refusal in refused.items:
                    self._ended(gateway, refusal.job)
        for name, node in self.nodes.items():
            self.orders += [(name, order) for order in self.rig.take(node, m.StartWorker)]
        for worker, player in self.workers.items():
            for assign in self.rig.take(worker, m.Assign):
                player.held.append(assign)
                self._assigned(player, assign)

    def _answered(self, gateway: bytes, item: m.AnsweredItem) -> None:
        wish = self.waiting.get((gateway, item.job))
        assert wish is not None, f"job {item.job} was answered after its end"
        assert item.part == wish.parts, f"part {item.part} of job {item.job} came as number {wish.parts}"
        if item.is_final:
            assert item.meta == b"end-%d" % wish.parts, (
                f"job {item.job} ended after {wish.parts}: {item.meta!r}"
            )
            self._ended(gateway, item.job)
        else:
            assert item.meta == b"part-%d" % wish.parts, f"{item.meta!r} of job {item.job}, not {wish.parts}"
            wish.parts += 1
            self.begun.add(b"meta-%d" % item.job)

    def _ended(self, gateway: bytes, job: int) -> None:
        assert (gateway, job) in self.waiting, f"job {job} ended twice, or after it was cancelled"
        del self.waiting[gateway, job]

    def _assigned(self, player: Player, assign: m.Assign) -> None:
        names = [item.sequence for item in assign.items if item.sequence]
        assert len(names) == len(set(names)), "two jobs of one sequence in a batch"
        for item in assign.items:
            assert item.meta not in self.begun, f"{item.meta!r} is tried again after its first part"
            self.runs[item.meta] += 1
            assert self.runs[item.meta] <= RUNS_MAX, f"{item.meta!r} may have been run too often"
            if item.sequence:
                job = int(item.meta[5:])
                key = (player.order.model, player.order.version, item.sequence)
                assert self.latest.get(key, -1) < job, f"sequence {key} has lost its order at {job}"
                self.latest[key] = job

    def _join_node(self, name: str) -> None:
        self.lives += 1
        self.nodes[name] = f"{name}-{self.lives}".encode()
        own = tuple(held(player.order) for player in self.workers.values() if player.node == name)
        self.rig.join_node(self.nodes[name], name, slots=3, workers=own)

    # Management

    def _register(
        self, model: str, version: str, workers: int, batch_size: int, delay_ms: int, mode: str
    ) -> None:
        url = self.rig.archive(f"{model}-{version}.mar", model, version, CONFIGS[mode])
        self.rig.say(GATEWAYS[0], m.RegisterModel(1, url, initial_workers=workers, batch_size=batch_size,
                                                  max_batch_delay_ms=delay_ms, synchronous=False,
                                                  response_timeout_s=10))  # fmt: skip
        self._see()

    @rule(data=st.data(), what=st.sampled_from(("scale", "register", "unregister", "node", "broker")))
    def the_fleet_changes(self, data: st.DataObject, what: str) -> None:
        model = data.draw(st.sampled_from(MODELS))
        if what == "node":
            self._lose_node(data.draw(st.sampled_from(NODES)), is_noticed=data.draw(st.booleans()))
        elif what == "broker":
            self._restart_broker(nodes_first=data.draw(st.booleans()))
        elif what == "register":
            self._register(
                model,
                data.draw(st.sampled_from(VERSIONS)),
                data.draw(st.integers(0, 3)),
                data.draw(st.sampled_from((1, 3))),
                data.draw(st.sampled_from((0, 200))),
                data.draw(st.sampled_from(sorted(CONFIGS))),
            )
        elif what == "scale":
            workers, patience_s = data.draw(st.integers(0, 4)), data.draw(st.sampled_from((-1, 0, 1)))
            self.rig.say(GATEWAYS[0], m.ScaleWorkers(2, model, None, workers, workers, False, patience_s))
        else:
            self.rig.say(GATEWAYS[0], m.UnregisterModel(3, model, None))
        self._see()

    # Jobs

    @rule(gateway=st.sampled_from(GATEWAYS), model=st.sampled_from(("a", "a", "b")), count=st.integers(1, 7),
          describe=st.sampled_from((False, False, False, True)),
          sequence=st.sampled_from(SEQUENCES), left_ms=st.sampled_from((0, 0, 40, 1200)))  # fmt: skip
    def submit(
        self, gateway: bytes, model: str, count: int, describe: bool, sequence: str, left_ms: int
    ) -> None:
        for job in range(self.jobs, self.jobs + count):
            self.waiting[gateway, job] = Wish(model, sequence, describe)
        self.rig.submit(*range(self.jobs, self.jobs + count), model=model, gateway=gateway,
                        is_describe=describe, sequence=sequence, left_ms=left_ms)  # fmt: skip
        self.jobs += count
        self._see()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        gateway, job = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[gateway, job]
        self.rig.say(gateway, m.Cancel((job,)))
        self._see()

    # Workers

    @precondition(lambda self: self.orders)
    @rule(fail=st.sampled_from((0, 0, 1, 2)))
    def workers_come_up(self, fail: int) -> None:
        """But for the first few of them."""
        orders, self.orders = self.orders, []
        for number, (name, order) in enumerate(orders):
            if number < fail:
                self.rig.exit_worker(order.worker_id, self.nodes[name], "ValueError: no")
            else:
                worker = self.rig.worker_ready_again(order, name)
                self.workers[worker] = Player(order, name)
        self._see()

    def _busy(self, data: st.DataObject) -> tuple[bytes, m.Assign]:
        """Draw a worker that holds something, and what of it it may answer."""
        worker = data.draw(st.sampled_from(sorted(w for w, player in self.workers.items() if player.held)))
        player = self.workers[worker]
        record = self.rig.core.catalog.get((player.order.model, player.order.version))
        if record is not None and batching.concurrent_leases(record):
            return worker, data.draw(st.sampled_from(player.held))
        return worker, player.held[0]

    @precondition(lambda self: any(player.held for player in self.workers.values()))
    @rule(data=st.data(), count=st.integers(1, 5), twist=st.sampled_from(("", "", "again", "ends", "lost")))
    def workers_answer(self, data: st.DataObject, count: int, twist: str) -> None:
        for _ in range(count):
            if any(player.held for player in self.workers.values()):
                worker, batch = self._busy(data)
                self._answer(worker, batch, again=twist == "again", ends=twist == "ends",
                             streamed=int(twist == "lost"))  # fmt: skip
                self._see()

    def _answer(
        self, worker: bytes, batch: m.Assign, *, again: bool = False, ends: bool = False, streamed: int = 0
    ) -> None:
        player = self.workers[worker]
        player.held.remove(batch)
        self.rig.lose_lease(worker, batch)
        items = tuple(
            m.CompletedItem(
                200,
                b"end-%d" % player.parts[batch.lease, index],
                ends_sequences=(item.sequence,) if ends else (),
            )
            for index, item in enumerate(batch.items)
        )
        done = m.Completed(batch.lease, 1, items, player.streamed.pop(batch.lease, 0) + streamed)
        for _ in range(1 + again):
            self.rig.say(worker, done)

    @precondition(lambda self: any(player.held for player in self.workers.values()))
    @rule(data=st.data(), fault=st.sampled_from(("", "twice", "lost")))
    def a_worker_streams(self, data: st.DataObject, fault: str) -> None:
        worker, batch = self._busy(data)
        player = self.workers[worker]
        indexes = data.draw(st.lists(st.integers(0, len(batch.items) - 1), min_size=1, max_size=3))
        number = player.streamed.get(batch.lease, 0)
        player.streamed[batch.lease] = number + 1
        items = []
        for index in indexes:
            items.append(m.StreamedItem(index, b"part-%d" % player.parts[batch.lease, index]))
            player.parts[batch.lease, index] += 1
        part = m.Streamed(batch.lease, tuple(items), number)
        for _ in range({"": 1, "twice": 2, "lost": 0}[fault]):
            self.rig.say(worker, part)
        self._see()

    def _lose_lease(self, data: st.DataObject, left: bool) -> None:
        """On its way, or with its answer; or it never leaves, which the broker is told at once."""
        worker, batch = self._busy(data)
        player = self.workers[worker]
        if left or batch.lease in player.streamed:
            player.held.remove(batch)
            self.rig.lose_lease(worker, batch)
        else:
            batch = player.held.pop()
            self.rig.lose_lease(worker, batch)
            self.runs.subtract(item.meta for item in batch.items)
            for item in batch.items:  # they may be given again
                self.latest.pop((player.order.model, player.order.version, item.sequence), None)
            self.rig.feed(Unreachable(worker, batch))
            self.rig.say(worker, m.WorkerBeat(tuple(lease.lease for lease in player.held)))

    @precondition(lambda self: self.workers)
    @rule(
        data=st.data(),
        what=st.sampled_from(("lease", "lease", "forgery", "forgery", "death")),
        twist=st.booleans(),
    )
    def something_is_wrong_with_a_worker(self, data: st.DataObject, what: str, twist: bool) -> None:
        if what == "death":
            worker = data.draw(st.sampled_from(sorted(self.workers)))
            player = self.workers.pop(worker)
            self.rig.exit_worker(player.order.worker_id, self.nodes[player.node])
        elif what == "forgery":
            self._forge(data, streams=twist)
        elif any(player.held for player in self.workers.values()):
            self._lose_lease(data, left=twist)
        self._see()

    def _forge(self, data: st.DataObject, *, streams: bool) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        leases = self.rig.core.jobs.leases
        foreign = [number for number, lease in leases.items() if b"w-%d" % lease.worker_id != worker]
        number = data.draw(st.sampled_from(foreign)) if foreign else 10_000
        if streams:
            self.rig.say(worker, m.Streamed(number, (m.StreamedItem(0, b"forged"),)))
        else:
            self.rig.say(worker, m.Completed(number, 1, (m.CompletedItem(200, b"forged"),)))

    # Nodes, the broker, time

    def _lose_node(self, name: str, *, is_noticed: bool) -> None:
        """Empty; sometimes before the broker has missed it."""
        self.rig.lose_node(self.nodes[name])
        for worker in [w for w, player in self.workers.items() if player.node == name]:
            del self.workers[worker]
        self.orders = [order for order in self.orders if order[0] != name]
        self.rig.pass_time(8 if is_noticed else 0.5)
        self._join_node(name)

    def _restart_broker(self, *, nodes_first: bool) -> None:
        self.rig.restart()
        self.latest.clear()
        self.runs.clear()
        for gateway in GATEWAYS:
            self.rig.join_gateway(gateway)
        self.orders.clear()
        if nodes_first:
            for name in NODES:
                self._join_node(name)
        for player in self.workers.values():
            player.held.clear()
            player.streamed.clear()
            self.rig.worker_ready_again(player.order, player.node)
        if not nodes_first:
            for name in NODES:
                self._join_node(name)
        for (gateway, job), wish in list(self.waiting.items()):
            if wish.parts:  # its client has seen the connection cut
                del self.waiting[gateway, job]
            else:
                self.rig.submit(job, model=wish.model, gateway=gateway, is_describe=wish.is_describe,
                                sequence=wish.sequence)  # fmt: skip

    @invariant()
    def nobody_waits_longer_than_he_said(self) -> None:
        jobs = [job for gateway in self.rig.core.gateways.values() for job in gateway.jobs.values()]
        late = [job.number for job in jobs if job.given_up_at <= self.rig.now]
        assert not late, f"jobs {late} are past their limits"
        unnoted = [job.number for job in jobs if job.given_up_at < self.rig.core.jobs.next_deadline()]
        assert not unnoted, f"nothing will end the jobs {unnoted} at their limits"

    @rule(seconds=st.sampled_from((0.05, 0.3, 2.0, 12.0)))
    def time_passes(self, seconds: float) -> None:
        self.rig.pass_time(seconds)
        self._see()

    @rule(seconds=st.sampled_from((0.4, 2.0, 12.0)))
    def the_broker_stands_still(self, seconds: float) -> None:
        self.rig.stand_still(seconds)
        self._see()

    def teardown(self) -> None:
        """Liveness: once nothing fails any more, everybody is answered within a bound."""
        for _ in range(80):
            if not self.waiting:
                break
            if self.orders:
                self.workers_come_up(fail=0)
            for worker, player in self.workers.items():
                while player.held:
                    self._answer(worker, player.held[0])
            self.time_passes(0.5)
        assert not self.waiting, f"{len(self.waiting)} jobs were never answered"


Machine.TestCase.settings = hypothesis_settings(max_examples=100, stateful_step_count=60)
test_the_core_keeps_its_promises = Machine.TestCase
