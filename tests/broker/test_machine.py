"""The core under any order of events: hypothesis plays gateways, nodes, workers and the clock.

`invariants.check` runs after every turn (the rig does it); the rules here add what only an onlooker can
know: nobody is answered twice, and in the end everybody is answered.
"""

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from shared import messages as m
from tests.broker.rig import Rig, settings

GATEWAYS = (b"g-1", b"g-2")
NODES = (b"n-1", b"n-2")
MODELS = ("a", "b")
VERSIONS = ("1.0", "2.0")


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(settings(job_queue_size=5, restart_window_s=20))
        self.jobs = 0
        #: Submitted and not cancelled, by (gateway, job).
        self.waiting: set[tuple[bytes, int]] = set()
        #: Worker peer -> batches it holds, oldest first.
        self.held: dict[bytes, list[m.Assign]] = {}
        self.node_of: dict[bytes, bytes] = {}
        self.orders: list[tuple[bytes, m.StartWorker]] = []

    @initialize()
    def a_gateway_and_a_node_are_there(self) -> None:
        self.rig.join_gateway(GATEWAYS[0])
        self.rig.join_gateway(GATEWAYS[1])
        self.rig.join_node(NODES[0], slots=3)
        self.rig.join_node(NODES[1], slots=3)

    # What the peers see

    def _see(self) -> None:
        for gateway in GATEWAYS:
            answers = [item.job for message in self.rig.take(gateway, m.Answered) for item in message.items]
            answers += [item.job for message in self.rig.take(gateway, m.Refused) for item in message.items]
            for job in answers:
                self._answered(gateway, job)
        for node in NODES:
            self.orders += [(node, order) for order in self.rig.take(node, m.StartWorker)]
        for worker, batches in self.held.items():
            batches += self.rig.take(worker, m.Assign)

    def _answered(self, gateway: bytes, job: int) -> None:
        assert (gateway, job) in self.waiting, f"job {job} was answered twice, or after it was cancelled"
        self.waiting.remove((gateway, job))

    # Management

    @rule(model=st.sampled_from(MODELS), version=st.sampled_from(VERSIONS), workers=st.integers(0, 3),
          batch_size=st.sampled_from((1, 3)), delay_ms=st.sampled_from((0, 200)))  # fmt: skip
    def register(self, model: str, version: str, workers: int, batch_size: int, delay_ms: int) -> None:
        url = self.rig.archive(f"{model}-{version}.mar", model, version)
        self.rig.say(GATEWAYS[0], m.RegisterModel(1, url, initial_workers=workers, batch_size=batch_size,
                                                  max_batch_delay_ms=delay_ms, synchronous=False,
                                                  response_timeout_s=10))  # fmt: skip
        self._see()

    @rule(model=st.sampled_from(MODELS), workers=st.integers(0, 4), patience_s=st.sampled_from((-1, 0, 1)))
    def scale(self, model: str, workers: int, patience_s: int) -> None:
        self.rig.say(GATEWAYS[0], m.ScaleWorkers(2, model, None, workers, workers, False, patience_s))
        self._see()

    @rule(model=st.sampled_from(MODELS), version=st.sampled_from((*VERSIONS, None)))
    def unregister(self, model: str, version: str | None) -> None:
        self.rig.say(GATEWAYS[0], m.UnregisterModel(3, model, version))
        self._see()

    # Jobs

    @rule(gateway=st.sampled_from(GATEWAYS), model=st.sampled_from(MODELS), count=st.integers(1, 7),
          describe=st.booleans())  # fmt: skip
    def submit(self, gateway: bytes, model: str, count: int, describe: bool) -> None:
        jobs = range(self.jobs, self.jobs + count)
        self.jobs += count
        self.waiting |= {(gateway, job) for job in jobs}
        self.rig.submit(*jobs, model=model, gateway=gateway, is_describe=describe)
        self._see()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        gateway, job = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.remove((gateway, job))
        self.rig.say(gateway, m.Cancel((job,)))
        self._see()

    # Workers

    @precondition(lambda self: self.orders)
    @rule(succeeds=st.booleans())
    def a_worker_comes_up_or_fails(self, succeeds: bool) -> None:
        node, order = self.orders.pop(0)
        if succeeds:
            worker = self.rig.worker_ready(order, node)
            self.held[worker], self.node_of[worker] = [], node
        else:
            self.rig.exit_worker(order.worker_id, node, "ValueError: no")
        self._see()

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), again=st.booleans())
    def a_worker_answers(self, data: st.DataObject, again: bool) -> None:
        worker = data.draw(st.sampled_from(sorted(w for w, batches in self.held.items() if batches)))
        batch = self.held[worker].pop(0)
        self.rig.complete(worker, batch)
        if again:
            items = tuple(m.CompletedItem(200, b"") for _ in batch.items)
            self.rig.say(worker, m.Completed(batch.lease, 1, items))
        self._see()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def a_worker_dies(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[worker]
        self.rig.exit_worker(int(worker[2:]), self.node_of[worker])
        self._see()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def a_worker_forges_results(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.held)))
        foreign = [
            lease for lease, held in self.rig.core.jobs.leases.items() if b"w-%d" % held.worker_id != worker
        ]
        lease = data.draw(st.sampled_from(foreign)) if foreign else 10_000
        self.rig.say(worker, m.Completed(lease, 1, (m.CompletedItem(200, b"forged"),)))
        self._see()

    # Time

    @rule(seconds=st.sampled_from((0.05, 0.3, 2.0, 12.0)))
    def time_passes(self, seconds: float) -> None:
        self.rig.pass_time(seconds)
        self._see()

    def teardown(self) -> None:
        """Liveness: once nothing fails any more, everybody is answered within a bound."""
        for _ in range(80):
            if not self.waiting:
                break
            while self.orders:
                self.a_worker_comes_up_or_fails(succeeds=True)
            for worker, batches in self.held.items():
                while batches:
                    self.rig.complete(worker, batches.pop(0))
            self.time_passes(0.5)
        assert not self.waiting, f"{len(self.waiting)} jobs were never answered"


Machine.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=60, deadline=None)
test_the_core_keeps_its_promises = Machine.TestCase
