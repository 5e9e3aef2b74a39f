"""A fleet with peers that say anything: real core, real codec, virtual time, everything by one seed.

Looked for: an invariant that broke, an event that raised, a long text that is repeated, an honest peer that
lost what it has.
"""

import random

from tests.broker.rig import GATEWAY, NODE, Rig, held, settings
from tests.fuzz.values import Pool, Values, damaged
from torchrelay.broker.core.events import Event, Garbled, Received, Unreachable, Unsendable
from torchrelay.broker.core.states import WorkerState
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

CONFIGS = (
    None,
    ModelConfig(async_communication=True),
    ModelConfig(continuous_batching=True),
    ModelConfig(sequence_batching=True, sequence_max_idle_ms=3000, max_sequences=3, continuous_batching=True),
    ModelConfig(client_timeout_ms=1500, job_queue_size=3),
)
HOSTILE = (b"x-1", b"x-2", b"x-3", b"x-4")
HELLOS = (m.HelloGateway, m.HelloNode, m.HelloWorker)
ALL = tuple(codec.KINDS.values())
#: Names have 256 characters, a worker's reason what its node says.
LONGEST_FACT = 9000
#: What changes the fleet for everybody: a gateway that may do so is no intruder.
CHANGES = (m.RegisterModel, m.UnregisterModel, m.ScaleWorkers, m.SetDefault, m.RenewKey)


class Fleet:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        #: Whether hostile gateways may manage models; honest peers have nothing to rely on then.
        self.may_manage = self.rng.random() < 0.3
        self.rig = Rig(settings(enable_model_api=True, job_queue_size=20, settle_s=0.5, quarantine_s=5.0))
        self.pool = Pool()
        self.values = Values(self.rng, self.pool)
        self.jobs = 0
        self.config = self.rng.choice(CONFIGS)
        self.rig.join_gateway()
        self.rig.join_node()
        self.rig.register(initial_workers=2, config=self.config, batch_size=self.rng.choice((1, 3)))
        self.orders = self.rig.take(NODE, m.StartWorker)
        self.workers = [self.rig.worker_ready(order) for order in self.orders]

    def run(self, steps: int) -> None:
        """Do so many things. Raises AssertionError, or whatever the core does."""
        for _ in range(steps):
            self._learn()
            self.rng.choices(
                (self._say_anything, self._send_damaged, self._work, self._wait, self._restart),
                (60, 15, 15, 9, 1),
            )[0]()
            self._check()
        if not self.may_manage:
            self._check_honest()

    def _learn(self) -> None:
        core = self.rig.core
        records = list(core.catalog)
        self.pool.integers = [
            *core.fleet.workers,
            *core.jobs.leases,
            *range(self.jobs, self.jobs + 3),
            core.epoch,
            1,
        ]
        self.pool.integers += [m.PROTOCOL_VERSION, *(job for g in core.gateways.values() for job in g.jobs)]
        self.pool.texts = [text for r in records for text in (r.model, r.version, r.archive, r.url)]
        self.pool.texts += [node.name for node in core.fleet.nodes.values()]
        self.pool.texts += ["cpu", "cuda:0", "m-1.0.mar", "2xx"]

    def _say_anything(self) -> None:
        classes = [cls for cls in ALL if self.may_manage or cls not in CHANGES]
        message = self.values.message(HELLOS if self.rng.random() < 0.25 else classes)
        assert isinstance(message, m.Message)
        peer = self.rng.choice(HOSTILE)
        frames = [self.rng.randbytes(3) for _ in range(self.rng.choice((0, 0, 0, 1, 2)))]
        epoch = self.rng.choice((self.rig.epoch,) * 8 + (0, self.rig.epoch + 1))
        event: Event = self.rig.event(peer, message, frames, epoch)
        if isinstance(event, Received) and self.rng.random() < 0.05:
            event = self.rng.choice(
                (Unreachable(peer, event.message), Unsendable(peer, event.message, "odd"))
            )
        self.rig.feed(event)

    def _send_damaged(self) -> None:
        message = self.values.message(ALL)
        assert isinstance(message, m.Message)
        data = damaged(self.rng, codec.encode(message, self.rig.epoch))
        peer = self.rng.choice(HOSTILE)
        try:
            decoded, epoch = codec.decode(data, codec.HEAD_TO_BROKER_LIMIT_BYTES)
        except codec.WireError as error:
            self.rig.feed(Garbled(peer, str(error)))
            return
        if self.may_manage or not isinstance(decoded, CHANGES):
            self.rig.feed(Received(peer, decoded, epoch))

    def _work(self) -> None:
        """Let honest peers do their part."""
        self.rig.submit(*range(self.jobs, self.jobs + 3), sequence=self.rng.choice(("", "s")))
        self.jobs += 3
        self._answer()

    def _answer(self) -> bool:
        """Let the workers answer what they have; tell whether there was something."""
        batches = [(worker, batch) for worker in self.workers for batch in self.rig.take(worker, m.Assign)]
        for worker, batch in batches:
            self.rig.complete(worker, batch)
        return bool(batches)

    def _wait(self) -> None:
        self.rig.pass_time(self.rng.choice((0.05, 0.6, 2.0, 7.0)))

    def _restart(self) -> None:
        self.rig.restart()
        self.rig.join_gateway()
        if self.rng.random() < 0.5:
            self._say_anything()
        self.rig.join_node(workers=tuple(map(held, self.orders)))
        for order in self.orders:
            self.rig.worker_ready(order)

    def _check(self) -> None:
        faults = [report for report in self.rig.reports if report.event == "broker.fault"]
        assert not faults, f"an event raised: {faults[0].facts}"
        for report in self.rig.reports:
            facts = {name: str(fact) for name, fact in report.facts.items() if name not in ("at", "output")}
            assert all(len(fact) <= LONGEST_FACT for fact in facts.values()), f"{report.event} repeats much"
        self.rig.reports.clear()

    def _check_honest(self) -> None:
        core = self.rig.core
        assert GATEWAY in core.gateways, "an honest gateway was dropped"
        assert NODE in core.fleet.nodes, "an honest node was dropped"
        for order in self.orders:
            worker = core.fleet.workers.get(order.worker_id)
            assert worker is not None, "an honest worker was given up"
            assert worker.node == NODE, f"an honest worker was taken over: {worker}"
            assert worker.state is WorkerState.READY, f"an honest worker was stopped: {worker}"
        self.rig.pass_time(8)
        while self._answer():
            pass
        waiting = [job for job in core.gateways[GATEWAY].jobs.values() if job.gateway == GATEWAY]
        assert not waiting, f"honest jobs have no answer: {waiting}"
