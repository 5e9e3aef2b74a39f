"""The broker as a machine: events in, effects out.

No socket, no clock, no log, no random, no I/O: `server` does those. `handle` takes all events of one
turn of its loop and returns what to do, so that the jobs of many messages make one batch and the
answers to one gateway make one message. `next_wake` says when to come back though nothing happens.

What always holds (see `tests/broker/invariants.py`):
- a job ends exactly once, and until then is in one queue or in one lease;
- a lease lies on one worker, which has a bounded number, and only the holder's result counts;
- a worker changes state by the table in `states`; a peer's nonsense changes nothing and is answered.

The wire may lose messages whenever a connection breaks. So every promise has a second way to be kept:
gateways ask for what they miss (`Forgotten`), workers' beats tell of leases that were never received or
whose result was lost, parts of answers are numbered, nodes' beats tell of workers that are not there, and
all else has a deadline.

Time, in here, is time in which the broker listened (`ListeningClock`): a broker that stood still blames
nobody for the silence. Real time is what clients' own limits, keys, and times that people read go by.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from traceback import format_tb
from typing import Any, get_args

from torchrelay.broker.core import questions
from torchrelay.broker.core.answers import Answers, Gateway
from torchrelay.broker.core.early_requests import WAIT_LIMIT_S, EarlyRequest, EarlyRequests
from torchrelay.broker.core.effects import Effect, ReadChunk, Report, Send, WriteMetrics
from torchrelay.broker.core.events import (
    ArchivePrepared,
    ChunkRead,
    Event,
    Garbled,
    Received,
    Stored,
    Unreachable,
    Unsendable,
)
from torchrelay.broker.core.keyring import Keyring
from torchrelay.broker.core.states import JobState, WorkerState
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.core.torchserve_metrics import Metrics
from torchrelay.broker.fleet.fleet import Fleet, Node, Worker
from torchrelay.broker.fleet.worker_claims import Claims
from torchrelay.broker.jobs.jobs import Jobs
from torchrelay.broker.jobs.queues import Lease
from torchrelay.broker.models.catalog import Catalog
from torchrelay.broker.models.changes import Management
from torchrelay.broker.models.records import Snapshot, VersionRecord
from torchrelay.shared import clock, errors, ids
from torchrelay.shared.containment import first_fault
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame, WireError, split_frames
from torchrelay.shared.wire.presence import silence_s

#: Housekeeping happens this many times per beat: fine enough for timeouts, too rare to cost anything.
SWEEPS_PER_BEAT = 5
#: A turn that comes later than half a beat after the one before it: the broker stood still.
TURNS_PER_BEAT = 2
#: Misunderstood messages that are logged one by one between two sweeps; anybody can send thousands.
COMPLAINTS_PER_SWEEP = 20
#: The same for events that raised; each brings a traceback.
FAULTS_PER_SWEEP = 5
#: How long a gateway that missed a renewal of keys may open by the old ones.
KEYS_INTERVAL_S = 10.0
#: Peers of each kind; a real fleet has a tenth of them. What is done at each beat or sweep is for all.
GATEWAYS_LIMIT = NODES_LIMIT = 1024
#: Jobs of one gateway that have not ended: far above in_flight_limit_jobs.
JOBS_PER_GATEWAY_LIMIT = 32_768
#: Questions answered in one turn; one of the whole fleet, which takes the longer the larger that is, is one.
QUESTIONS_PER_TURN = 8
#: Questions that wait: as many as two gateways may have.
QUESTIONS_LIMIT = 1024
#: The largest part of an archive that one message carries.
CHUNK_LIMIT_BYTES = 4 << 20
STATUS_CLASSES = frozenset(("1xx", "2xx", "3xx", "4xx", "5xx"))


class BrokerCore:
    """Peers and workers; jobs are `jobs`' concern, registration and scaling `changes`'s."""

    def __init__(
        self,
        settings: BrokerSettings,
        snapshot: Snapshot,
        keys: Keyring | None = None,
        metrics: Metrics | None = None,
        *,
        epoch: int,
        now: float,
        wall_ms: int,
        new_sequence_id: Callable[[], str],
        claims: Claims,
    ) -> None:
        self.settings = settings
        self._claims = claims
        self.epoch = epoch
        self._clock = clock.ListeningClock(now, settings.beat_interval_s / TURNS_PER_BEAT)
        self.catalog = Catalog(snapshot)
        self.fleet = Fleet(
            epoch=epoch,
            claims=claims,
            awaited=snapshot.nodes,
            settle_until=now + settings.settle_s,
        )
        self.stats = Stats()
        self.metrics = metrics or Metrics()
        self._answers = Answers(self.stats, self._send)
        self.gateways = self._answers.gateways
        self.jobs = Jobs(
            self.catalog, self.fleet, self.stats, settings,
            epoch=epoch, now=now, real_time=self._clock.real, answers=self._answers, send=self._send,
            report=self._report, new_sequence_id=new_sequence_id,
        )  # fmt: skip
        wall_of_real = clock.wall_of(now, wall_ms)
        #: Turns a time of the core into milliseconds since 1970.
        self.wall_ms: Callable[[float], int] = lambda at: wall_of_real(self._clock.real(at))
        self.keys = keys or Keyring(settings, now=now, wall_ms=wall_ms)
        self.keys.follow(self._clock)
        self.management = Management(
            self.catalog, self.fleet, settings, self.keys,
            epoch=epoch, emit=self._emit, tell_gateways=self._tell_gateways,
        )  # fmt: skip
        self.early = EarlyRequests(
            self._answers, self._send, limit=settings.job_queue_size, limit_bytes=settings.queue_limit_bytes
        )
        self.started_at = now
        #: Peer id -> worker, for workers that have said hello.
        self._workers: dict[bytes, Worker] = {}
        #: Of the turn.
        self._now = now
        self._effects: list[Effect] = []
        #: Questions of gateways by their numbers, in the order in which they are answered.
        self._questions: dict[tuple[bytes, int], m.Question] = {}
        self._sweep_due = now
        #: A peer that has said nothing for so long has missed a beat, and half the time to the next.
        self._late_s = 1.5 * settings.beat_interval_s
        #: Since when peers are listened to without a long break.
        self._silence_counts_from = now
        self._was_late = False
        self._beat_due = now
        #: Messages that were misunderstood since the last sweep.
        self._complaints = 0
        #: Events that raised since then.
        self._faults = 0
        self._keys_due = now + KEYS_INTERVAL_S
        self._remembered_nodes = frozenset(snapshot.nodes)

    # The shell's side

    def handle(self, events: Iterable[Event], *, now: float) -> list[Effect]:
        """Take in what happened and return what is to be done about it, in order; `now` is real time."""
        real_now, now = now, self._clock.turn(now)
        if self._was_late or self._clock.stood_still_s:
            self._allow_for_standing_still(now)
        self._now = now
        coming = iter(events)
        while fault := first_fault(coming, self._take):
            self._contain(*fault, now)
        if now >= self._sweep_due:
            self._sweep(now)
        if self.fleet.must_reconcile:
            self._reconcile(now)
        self.jobs.end_turn(now, real_now)
        if self._questions:
            self._answer_questions(now)
        for gateway in self.gateways.values():
            self._answers.flush(gateway)
        if self.metrics.is_logging and (lines := self.metrics.take_lines(self.stats, self.wall_ms(now))):
            self._effects.append(WriteMetrics(lines))
        effects, self._effects = self._effects, []
        return effects

    def next_wake(self) -> float:
        """Return the real time at which `handle` must be called even without events."""
        if self._questions:
            return 0.0  # no clock of ours shows less
        return min(self._clock.wake(min(self._sweep_due, self.jobs.next_due())), self.jobs.deadlines.next)

    @property
    def nodes(self) -> list[Node]:
        """The nodes that are here to stay; one that has said goodbye is kept until it falls silent."""
        return [node for node in self.fleet.nodes.values() if not node.is_leaving]

    def real_seconds(self, since: float, until: float) -> float:
        """Return the real time between two times of the core."""
        return self._clock.real(until) - self._clock.real(since)

    def knows(self, peer: bytes) -> bool:
        """Tell whether a peer has joined."""
        return any(peer in table for table in self._peer_tables().values())

    def held_bytes(self) -> dict[bytes, int]:
        """Return what is held of each gateway's jobs; what waits for the end of the start is in none."""
        return {peer: sum(job.size for job in one.jobs.values()) for peer, one in self.gateways.items()}

    # Taking events

    def _take(self, event: Event) -> None:
        now = self._now
        match event:
            case Received():
                try:
                    self._receive(event, now)
                except WireError as error:
                    self._misunderstand(event.peer, str(error))
            case Garbled(peer, reason):
                self._misunderstand(peer, reason)
            case Unreachable(peer, message):
                self._not_sent(peer, message, now)
            case Unsendable(peer, message, reason):
                self._could_not_send(peer, message, reason, now)
            case ArchivePrepared() | Stored():
                self.management.continue_with(event, now)
            case ChunkRead(peer, archive, offset, total, data):
                if data is None:
                    self._send(peer, m.ArchiveMissing(archive))
                else:
                    self._send(peer, m.ArchiveChunk(archive, offset, total), (data,))

    def _receive(self, event: Received, now: float) -> None:
        peer, message = event.peer, event.message
        match message:
            case m.HelloGateway() | m.HelloNode() | m.HelloWorker():
                self._greet(peer, message, now)
                return
        if event.epoch != self.epoch:
            self._send(peer, m.IntroduceYourself())
        elif gateway := self.gateways.get(peer):
            if now - gateway.last_heard > self._late_s:
                # It, or the way from it, was held up: what it took in meanwhile comes all at once.
                gateway.held_before = self.fleet.beat + 1
            gateway.last_heard = now
            self._call(_FROM_GATEWAY, gateway, event, now)
        elif worker := self._workers.get(peer):
            worker.last_heard = now
            if worker.is_cut:
                worker.is_cut = False
                self.jobs.touch(worker.key)
            self._call(_FROM_WORKER, worker, event, now)
        elif node := self.fleet.nodes.get(peer):
            node.last_heard = now
            self._call(_FROM_NODE, node, event, now)
        else:
            self._send(peer, m.IntroduceYourself())

    # Any: the sender's type differs by table; each table's methods take exactly its own.
    def _call(self, table: dict[type[m.Message], Callable[..., None]], sender: Any, event: Received,
              now: float) -> None:  # fmt: skip
        method = table.get(type(event.message))
        if method is None:
            name = type(event.message).__name__
            self._misunderstand(event.peer, f"{name} is not for a {type(sender).__name__.lower()} to say")
        elif event.frames and type(event.message) not in _WITH_FRAMES:
            self._misunderstand(event.peer, f"{type(event.message).__name__} carries no frames")
        else:
            method(self, sender, event, now)

    def _misunderstand(self, peer: bytes, reason: str) -> None:
        self.stats.misunderstood += 1
        reason = quoted(reason)
        self._send(peer, m.Misunderstood(reason))
        self._complaints += 1
        if self._complaints <= COMPLAINTS_PER_SWEEP:
            self._report(logging.WARNING, "message.misunderstood", peer=ids.shown_peer(peer), reason=reason)

    def _contain(self, event: Event, error: Exception, now: float) -> None:
        """Report an event that raised; if it was a peer's message, the peer is dropped.

        What the event had changed so far stays, and so do its effects, which belong together. All that may
        be half done concerns the peer, and ends with it: dropping it takes back, cancels and answers what it
        had. Should that raise as well, the turn has failed, see `server`.
        """
        message = event.message if isinstance(event, Received) else event
        peer = event.peer if isinstance(event, Received) else b""
        self._faults += 1
        if self._faults <= FAULTS_PER_SWEEP:
            self._report(logging.ERROR, "broker.fault", kind=type(message).__name__, content=quoted(message),
                         reason=quoted(f"{type(error).__name__}: {error}"), peer=ids.shown_peer(peer),
                         at="".join(format_tb(error.__traceback__)))  # fmt: skip
        if isinstance(event, Received):
            # By this a gateway ends what waits there: it would else send the same again.
            self._misunderstand(peer, f"{type(message).__name__} met a fault in the broker")
            self._drop(peer, now)

    def _drop(self, peer: bytes, now: float) -> None:
        """Forget a peer as if it had been lost; it may say hello again."""
        if gateway := self.gateways.get(peer):
            self._drop_gateway(gateway, "a message of it met a fault")
        elif node := self.fleet.nodes.get(peer):
            self._drop_node(node, now)
        elif worker := self._workers.pop(peer, None):
            reason = "a message of it met a fault in the broker"
            self._fail_worker(worker, reason, now)
            self.jobs.take_back(worker, worker.leases, now, reason=reason, is_lost=True)
            if worker.state is not WorkerState.STOPPING:
                self._stop(worker, now, kill=True, reason=reason)

    # Hellos

    def _greet(self, peer: bytes, hello: m.HelloGateway | m.HelloNode | m.HelloWorker, now: float) -> None:
        if hello.protocol != m.PROTOCOL_VERSION:
            self._send(
                peer,
                m.Leave(
                    f"this broker speaks protocol {m.PROTOCOL_VERSION}, the peer {hello.protocol}:"
                    " run the same torchrelay version everywhere"
                ),
            )
            return
        if why_not := self._why_not_greet(peer, hello):
            self._send(peer, m.Leave(why_not))
            return
        others = [table for kind, table in self._peer_tables().items() if kind is not type(hello)]
        if any(peer in table for table in others):
            self._misunderstand(peer, f"a second hello as another kind of peer, {type(hello).__name__}")
            return
        is_new = peer not in self._peer_tables()[type(hello)]
        match hello:
            case m.HelloGateway():
                if is_new:
                    self.gateways[peer] = Gateway(peer, hello.name, now, held_before=self.fleet.beat)
                    self._report(logging.INFO, "gateway.joined", gateway=hello.name, pid=hello.pid)
            case m.HelloNode():
                self.fleet.add_node(peer, hello, now)
                if is_new:
                    self._report_node(self.fleet.nodes[peer], held=len(hello.workers))
            case m.HelloWorker():
                if not self._greet_worker(peer, hello, now):
                    return
        beat_ms = max(1, int(self.settings.beat_interval_s * 1000))
        timeout_ms = max(1, int(self.settings.peer_timeout_s * 1000))
        asks_for_keys = isinstance(hello, m.HelloGateway) and self.settings.token_authorization
        self._send(peer, m.Welcome(beat_ms, timeout_ms, is_new, self.fleet.beat, asks_for_keys))
        if asks_for_keys:
            self._send(peer, self.keys.message(now))

    def _why_not_greet(self, peer: bytes, hello: m.Hello) -> str:
        """Say why there is no room for a peer, empty if there is; workers are as many as were ordered."""
        match hello:
            case m.HelloGateway() if peer not in self.gateways and len(self.gateways) >= GATEWAYS_LIMIT:
                return f"this broker has {GATEWAYS_LIMIT} gateway processes, as many as it takes"
            case m.HelloNode() if peer not in self.fleet.nodes and len(self.fleet.nodes) >= NODES_LIMIT:
                return f"this broker has {NODES_LIMIT} nodes, as many as it takes"
        return ""

    def _report_node(self, node: Node, held: int) -> None:
        self._report(logging.INFO, "node.joined", node=node.name, held=held)
        if node.name != node.own_name:
            self._report(logging.WARNING, "node.name_taken", node=node.name, own_name=node.own_name,
                         advice="unless it has just been restarted, give it another --name")  # fmt: skip

    def _peer_tables(self) -> dict[type[m.Message], dict[bytes, Any]]:  # Any: only keys are read
        return {m.HelloGateway: self.gateways, m.HelloNode: self.fleet.nodes, m.HelloWorker: self._workers}

    def _greet_worker(self, peer: bytes, hello: m.HelloWorker, now: float) -> bool:
        record = self.catalog.get((hello.model, hello.version))
        if record is None or record.archive != hello.archive:
            self._send(peer, m.Leave(f"{hello.model} {hello.version} of this archive isn't registered"))
            return False
        if (own := self._workers.get(peer)) and own.worker_id != hello.worker_id:
            self._misunderstand(peer, f"a second worker, {hello.worker_id}, of the peer of {own.worker_id}")
            return False
        if not self._claims.is_genuine(hello):
            self._send(peer, m.Leave("this broker had no such worker started"))
            return False
        known = self.fleet.workers.get(hello.worker_id)
        if known and known.state is WorkerState.STARTING:
            self._sweep_worker(known, now)  # it may be ready, and yet too late
        # One that a node brought along when it joined had been loaded before.
        loading_s = self.real_seconds(known.started_at, now) if known and known.note else None
        worker = self.fleet.add_worker(peer, hello, now)
        if worker is None:
            self._send(peer, m.Leave("it was told to stop"))
            return False
        if peer not in self._workers:
            self.jobs.take_back(worker, worker.leases, now, reason="it joined anew")
            self._workers[peer] = worker
            if loading_s is not None:
                self.metrics.worker_loaded(_load_label(worker), loading_s, self.wall_ms(now))
            self._report(logging.INFO, "worker.ready", worker=worker.worker_id, model=hello.model,
                         version=hello.version, node=hello.node, device=hello.device,
                         failures=self.fleet.condition(worker.key).failures)  # fmt: skip
        self.jobs.touch(worker.key)
        return True

    # From gateways

    def _on_submit(self, gateway: Gateway, event: Received, now: float) -> None:
        message = event.message
        assert isinstance(message, m.Submit)
        parts = split_frames([item.frames for item in message.items], event.frames)
        if len(gateway.jobs) + len(message.items) > JOBS_PER_GATEWAY_LIMIT:
            why = f"it has {len(gateway.jobs)} jobs of one gateway"
            full = errors.ServiceUnavailable("The broker is busy.", why)
            for item in message.items:
                if item.job not in gateway.jobs:
                    self._answers.refuse_unadmitted(gateway, item.job, full)
            return
        was_held = message.heard == m.HELD or 0 < message.heard < gateway.held_before
        for item, frames in zip(message.items, parts, strict=True):
            if item.job in gateway.jobs or (self.early.waiting and self.early.holds(gateway.peer, item.job)):
                continue  # it was sent again
            error = self.jobs.admit(gateway, item, frames, now, was_held=was_held)
            if error is not None:
                self._refuse_unknown(gateway, item, frames, error, now)

    def _refuse_unknown(
        self,
        gateway: Gateway,
        item: m.SubmitItem,
        frames: tuple[Frame, ...],
        error: errors.RelayError,
        now: float,
    ) -> None:
        """Answer a job of a model that isn't known, or let it wait while that can still change."""
        if self._must_wait(item):
            early = EarlyRequest(gateway, item, frames, now + WAIT_LIMIT_S)
            self.early.keep(early, self.management.loading)
        else:
            self._answers.refuse_unadmitted(gateway, item.job, error)

    def _on_cancel(self, gateway: Gateway, event: Received, now: float) -> None:
        assert isinstance(event.message, m.Cancel)
        for number in event.message.jobs:
            self.early.forget(gateway.peer, number)
        jobs = (gateway.jobs.get(number) for number in event.message.jobs)
        self.jobs.cancel([job for job in jobs if job is not None])

    def _on_announced(self, gateway: Gateway, event: Received, now: float) -> None:
        gateway.last_heard = now + silence_s(event.message)

    def _on_gateway_beat(self, gateway: Gateway, event: Received, now: float) -> None:
        beat = event.message
        assert isinstance(beat, m.GatewayBeat)
        for status_class, count in beat.responses.items():
            if status_class not in STATUS_CLASSES:
                continue
            self.stats.responses[status_class] += count
            self.metrics.count_responses(status_class, count, self.wall_ms(now))
        self.stats.wrong_keys += beat.wrong_keys
        is_early = self.early.holds
        jobs = tuple(n for n in beat.jobs if n not in gateway.jobs and not is_early(gateway.peer, n))
        asks = tuple(
            n
            for n in beat.asks
            if not self.management.is_pending(gateway.peer, n)
            and not is_early(gateway.peer, n)
            and (gateway.peer, n) not in self._questions
        )
        if jobs or asks:
            self._answers.flush(gateway)  # what it misses may be among the answers of this very turn
            self._send(gateway.peer, m.Forgotten(jobs, asks))

    def _on_gateway_bye(self, gateway: Gateway, event: Received, now: float) -> None:
        self._drop_gateway(gateway, "it said goodbye")

    def _drop_gateway(self, gateway: Gateway, reason: str) -> None:
        self.jobs.cancel(list(gateway.jobs.values()))
        self.management.forget_peer(gateway.peer)
        self.early.forget_gateway(gateway.peer)
        del self.gateways[gateway.peer]
        self._report(logging.INFO, "gateway.left", gateway=gateway.name, reason=reason)

    def _on_ask(self, gateway: Gateway, event: Received, now: float) -> None:
        ask = event.message
        assert isinstance(ask, m.Ask)
        if self.early.holds(gateway.peer, ask.ask):
            return  # it was sent again
        if self._must_wait(ask):
            self.early.keep(EarlyRequest(gateway, ask, (), now + WAIT_LIMIT_S), self.management.loading)
        else:
            self._answer(gateway, ask, now)

    def _answer(self, gateway: Gateway, ask: m.Ask, now: float) -> None:
        if not isinstance(ask, m.Question):
            self.management.ask(gateway.peer, ask, now)
        elif len(self._questions) < QUESTIONS_LIMIT:
            self._questions[gateway.peer, ask.ask] = ask
        else:
            why = f"{QUESTIONS_LIMIT} questions wait for their answers"
            busy = errors.ServiceUnavailable("The broker is busy.", why)
            self._send(gateway.peer, m.AskRefused(ask.ask, busy.name, busy.message, busy.details))

    def _answer_questions(self, now: float) -> None:
        """Answer some of the questions that wait, so that many of them hold nobody else up for long."""
        left = QUESTIONS_PER_TURN
        while self._questions and left > 0:
            (peer, _), ask = item = next(iter(self._questions.items()))
            del self._questions[item[0]]
            left -= QUESTIONS_PER_TURN if isinstance(ask, _OF_THE_WHOLE_FLEET) else 1
            if peer in self.gateways:
                self._send(peer, questions.answer(self, ask, now))

    # While models of the start are being registered

    def _must_wait(self, request: m.SubmitItem | m.Ask) -> bool:
        """Tell whether only the end of the start shows what the answer is: no name is unknown before."""
        if not self.management.loading:
            return False
        match request:
            case m.ReadFleet() | m.ReadMetrics() | m.ReadHealth() | m.RenewKey():
                return False
            case m.ListModels() | m.DescribeModel(every=True):
                return self.management.is_starting
            case m.SubmitItem() | m.DescribeModel():
                return not self.catalog.knows(request.model, request.version)
            case _:  # a change, which the start must neither undo nor contradict
                return True

    def _take_early(self, now: float) -> None:
        """Take up what waited for the models that are registered by now, or for the end of the start."""
        for early in self.early.take(self._must_wait):
            if isinstance(early.request, m.SubmitItem):
                job = early.request
                error = self.jobs.admit(early.gateway, job, early.frames, now, was_held=True)
                if error is not None:
                    self._refuse_unknown(early.gateway, job, early.frames, error, now)
            else:
                self._answer(early.gateway, early.request, now)

    # From workers

    def _on_streamed(self, worker: Worker, event: Received, now: float) -> None:
        streamed = event.message
        assert isinstance(streamed, m.Streamed)
        parts = split_frames([item.frames for item in streamed.items], event.frames)
        self.jobs.streamed(worker, streamed, parts, now)

    def _on_completed(self, worker: Worker, event: Received, now: float) -> None:
        done = event.message
        assert isinstance(done, m.Completed)
        parts = split_frames([item.frames for item in done.items], event.frames)
        if not self.jobs.completed(worker, done, parts, now):
            return
        self.fleet.count_success(worker)
        if worker.state is WorkerState.DRAINING and not worker.leases:
            self._stop(worker, now, kill=False, reason="it has finished its batches")

    def _on_worker_beat(self, worker: Worker, event: Received, now: float) -> None:
        beat = event.message
        assert isinstance(beat, m.WorkerBeat)
        self.jobs.take_back_lost(worker, frozenset(beat.leases), beat.heard, now)

    def _on_worker_bye(self, worker: Worker, event: Received, now: float) -> None:
        if worker.state is WorkerState.READY and not self._is_node_leaving(worker):
            self._fail_worker(worker, "it was told to stop, but not by the broker", now)
        self._remove_worker(worker, now, "it said goodbye")

    def _is_node_leaving(self, worker: Worker) -> bool:
        node = self.fleet.nodes.get(worker.node or b"")
        return node is not None and node.is_leaving

    # From nodes

    def _on_node_beat(self, node: Node, event: Received, now: float) -> None:
        """Correct the picture: workers that are not there, or that nobody knows of."""
        assert isinstance(event.message, m.NodeBeat)
        held = dict(event.message.memory)
        for worker in self.fleet.of_node(node.peer):
            worker.memory_bytes = held.get(worker.worker_id, worker.memory_bytes)
            if worker.worker_id not in held and now - worker.since > self.settings.peer_timeout_s:
                self._fail_worker(worker, "its node holds no such process", now)
                self._remove_worker(worker, now, "its node holds no such process")
        strange = sorted(number for number in held if not self.fleet.may_hold(node, number))
        if strange:
            why = "the broker doesn't know it, or had another node start it"
            self._send(node.peer, m.StopWorker(strange[0], kill=True, reason=why, also=tuple(strange[1:])))

    def _on_progress(self, node: Node, event: Received, now: float) -> None:
        progress = event.message
        assert isinstance(progress, m.WorkerProgressed)
        worker = self.fleet.workers.get(progress.worker_id)
        if worker is None or worker.node != node.peer or worker.state is not WorkerState.STARTING:
            return
        worker.last_heard = now
        if progress.phase != "loading" or worker.note != "loading":
            worker.since = now  # startup_timeout is for loading; fetching has its own pace
        if worker.note == "installing" != progress.phase:
            self.fleet.must_reconcile = True  # somebody may wait for that
        if progress.pid:
            worker.pid = progress.pid
        worker.note = progress.phase
        if progress.total_bytes:
            worker.note += f" {100 * progress.done_bytes // progress.total_bytes} %"

    def _on_exited(self, node: Node, event: Received, now: float) -> None:
        gone = event.message
        assert isinstance(gone, m.WorkerExited)
        worker = self.fleet.workers.get(gone.worker_id)
        if worker is None or worker.node != node.peer:
            return
        is_excused = (
            gone.of_itself
            and worker.state in (WorkerState.READY, WorkerState.DRAINING)
            and not node.is_leaving
            and self.jobs.blame(worker, gone, now)
        )
        has_failed = not (worker.installs_only and gone.exit_code == 0)
        if has_failed and worker.state in (WorkerState.STARTING, WorkerState.READY) and not node.is_leaving:
            was_ready = worker.state is WorkerState.READY
            self._fail_worker(
                worker, gone.reason, now, out_of_memory=gone.out_of_memory, is_excused=is_excused
            )
            self._report(logging.WARNING, "worker.failed", worker=worker.worker_id, model=worker.key[0],
                         version=worker.key[1], node=node.name, reason=gone.reason, exit_code=gone.exit_code,
                         signal=gone.signal, was_ready=was_ready, **self._prospects(worker, now),
                         output="\n".join(gone.last_lines))  # fmt: skip
        self._remove_worker(worker, now, gone.reason)

    def _on_fetch(self, node: Node, event: Received, now: float) -> None:
        fetch = event.message
        assert isinstance(fetch, m.FetchArchive)
        if not self.catalog.is_archive_used(fetch.archive):
            self._send(node.peer, m.ArchiveMissing(fetch.archive))
        elif fetch.offset < 0 or not 0 < fetch.length <= CHUNK_LIMIT_BYTES:
            self._misunderstand(node.peer, f"a chunk of {fetch.length} bytes from {fetch.offset}")
        else:
            self._emit(ReadChunk(node.peer, fetch.archive, fetch.offset, fetch.length))

    def _on_node_bye(self, node: Node, event: Received, now: float) -> None:
        node.is_leaving = True
        self.fleet.name_nodes()
        for worker in self.fleet.of_node(node.peer):
            if worker.state is WorkerState.READY:
                worker.move(WorkerState.DRAINING, now)
                self.jobs.leave_service(worker)
        self.fleet.must_reconcile = True
        self._report(logging.INFO, "node.leaving", node=node.name)

    def _drop_node(self, node: Node, now: float) -> None:
        for worker in self.fleet.remove_node(node.peer):
            if not node.is_leaving:
                self.stats.worker_failures[worker.key] += 1
            self._remove_worker(worker, now, f"its node {node.name} was lost")
        self._report(logging.INFO if node.is_leaving else logging.WARNING, "node.left", node=node.name)

    # Figures

    def _on_measured(self, worker: Worker, event: Received, now: float) -> None:
        measured = event.message
        assert isinstance(measured, m.Measured)
        self.metrics.measured(measured.hostname, measured.points, by_node=False)

    def _on_node_measured(self, node: Node, event: Received, now: float) -> None:
        measured = event.message
        assert isinstance(measured, m.NodeMeasured)
        node.used_bytes = questions.used_bytes(measured.points, node.used_bytes)
        if measured.gpus is not None:
            node.gpus = questions.gpu_uses(node, measured.gpus)
        self.metrics.measured(measured.hostname, measured.points, by_node=True)

    # Workers' ends

    def _not_sent(self, peer: bytes, message: m.Message, now: float) -> None:
        """Undo what a message without a connection was to bring about.

        A worker is given nothing more until it is heard again, and a batch that did not leave goes
        elsewhere. What it was running is not touched: it may come back with it, and if it died, its
        node says so. A start that did not leave is nobody's failure.
        """
        if worker := self._workers.get(peer):
            worker.is_cut = True
            if isinstance(message, m.Assign):
                self.jobs.take_back_unsent(worker, message.lease, now)
        elif isinstance(message, m.StartWorker) and (lost := self.fleet.workers.get(message.worker_id)):
            self._remove_worker(lost, now, "the order to start it found no node")

    def _could_not_send(self, peer: bytes, message: m.Message, reason: str, now: float) -> None:
        """Answer for a message that can't be written, and would not be another time: the fault is ours."""
        error = errors.InternalError("Internal error in the broker", reason)
        if isinstance(message, m.Reply):
            self._send(peer, m.AskRefused(message.ask, error.name, error.message, error.details))
        elif isinstance(message, m.Answered | m.Refused):
            self._send(peer, m.Refused(tuple(
                m.RefusedItem(item.job, error.name, error.message, error.details) for item in message.items
            )))  # fmt: skip
        elif isinstance(message, m.StartWorker) and (worker := self.fleet.workers.get(message.worker_id)):
            self._fail_worker(worker, reason, now)
            self._remove_worker(worker, now, reason)
        elif isinstance(message, m.Assign) and (worker := self._workers.get(peer)):
            jobs = [job for lease in worker.leases if lease.number == message.lease for job in lease.jobs]
            for job in jobs:
                if job.state is JobState.RUNNING:
                    self._answers.refuse(job, error)
            self.jobs.take_back_unsent(worker, message.lease, now)
            self.jobs.touch(worker.key)

    def _fail_worker(
        self,
        worker: Worker,
        reason: str,
        now: float,
        *,
        out_of_memory: bool = False,
        is_excused: bool = False,
    ) -> None:
        """Count an end that nobody asked for, and give its jobs another chance."""
        if worker.state not in (WorkerState.STARTING, WorkerState.READY):
            return
        self.stats.worker_failures[worker.key] += 1
        record = self.catalog.get(worker.key)
        window_s = record.config.restart_window_s if record else None
        self.fleet.count_failure(
            worker, reason, out_of_memory=out_of_memory, is_excused=is_excused, now=now,
            window_s=self.settings.restart_window_s if window_s is None else window_s,
        )  # fmt: skip
        self.jobs.take_back(worker, worker.leases, now, reason=reason, is_lost=True,
                            out_of_memory=out_of_memory)  # fmt: skip

    def _remove_worker(self, worker: Worker, now: float, reason: str) -> None:
        self.jobs.take_back(worker, worker.leases, now, reason=reason, is_lost=True)
        self.jobs.leave_service(worker)
        self._workers.pop(worker.peer or b"", None)
        self.metrics.worker_gone(_load_label(worker))
        self.fleet.remove_worker(worker, now)
        self._report(logging.INFO, "worker.gone", worker=worker.worker_id, model=worker.key[0],
                     version=worker.key[1], reason=reason)  # fmt: skip

    def _stop(self, worker: Worker, now: float, *, kill: bool, reason: str) -> None:
        worker.move(WorkerState.STOPPING, now)
        self.jobs.leave_service(worker)
        self._order_stop(worker, now, kill=kill, reason=reason)

    def _order_stop(self, worker: Worker, now: float, *, kill: bool, reason: str) -> None:
        worker.stop_sent_at = now
        if worker.node is not None:
            record = self.catalog.get(worker.key)
            is_unregistered = record is None or record.archive != worker.archive
            self._send(worker.node, m.StopWorker(worker.worker_id, kill, reason, is_unregistered))
        elif worker.peer is not None:
            self._send(worker.peer, m.Leave(reason))

    # Time

    def _sweep(self, now: float) -> None:
        """Housekeeping: beats, silent peers, deadlines, restarts."""
        self._sweep_due = now + self.settings.beat_interval_s / SWEEPS_PER_BEAT
        if self._complaints > COMPLAINTS_PER_SWEEP:
            self._report(logging.WARNING, "message.misunderstood", reason="more of the same kind",
                         messages=self._complaints - COMPLAINTS_PER_SWEEP)  # fmt: skip
        if self._faults > FAULTS_PER_SWEEP:
            self._report(logging.ERROR, "broker.fault", reason="more messages met a fault",
                         messages=self._faults - FAULTS_PER_SWEEP)  # fmt: skip
        self._complaints = self._faults = 0
        if now >= self._beat_due:
            self._beat_due = now + self.settings.beat_interval_s
            self.fleet.beat += 1
            for peer in (*self.gateways, *self.fleet.nodes, *self._workers):
                self._send(peer, m.Beat(self.fleet.beat))
        if self.settings.token_authorization and now >= self._keys_due:
            self._keys_due = now + KEYS_INTERVAL_S
            self._tell_gateways(self.keys.message(now))  # nobody would miss one that was lost
        self._drop_silent_peers(now)
        for worker in list(self.fleet.workers.values()):
            self._sweep_worker(worker, now)
        self.jobs.expire(now)
        self.early.expire(self.management.loading, now)
        self._remember_nodes(now)
        self._reconcile(now)

    def _allow_for_standing_still(self, now: float) -> None:
        """Read what lies waiting before anybody is judged, in a turn that comes too late.

        The next turn judges even if it is late as well: a broker that is slow for good has deadlines, too.
        """
        is_late = self._clock.stood_still_s > 0
        if is_late and not self._was_late:
            self._sweep_due = max(self._sweep_due, now + self.settings.beat_interval_s / SWEEPS_PER_BEAT)
            self._beat_due = self._sweep_due
            for gateway in self.gateways.values():
                gateway.held_before = self.fleet.beat + 1
        if self._clock.stood_still_s > self.settings.peer_timeout_s / 2:
            # Long enough for peers to have hung up: they have the whole timeout for coming back.
            self._silence_counts_from = now
            if self.gateways or self.fleet.nodes:  # else it has only been slow to start
                seconds = round(self._clock.stood_still_s, 1)
                self._report(logging.WARNING, "broker.stood_still", seconds=seconds,
                             advice="it was stopped, swapped out, overloaded, or its host slept")  # fmt: skip
        self._was_late = is_late

    def _drop_silent_peers(self, now: float) -> None:
        for gateway in [g for g in self.gateways.values() if self._is_silent(g, now)]:
            self._drop_gateway(gateway, "it has been silent")
        for node in [n for n in self.fleet.nodes.values() if self._is_silent(n, now)]:
            self._drop_node(node, now)

    def _is_silent(self, peer: Gateway | Node | Worker, now: float, timeouts: int = 1) -> bool:
        """Tell whether a peer has said nothing for so many peer timeouts, though it was listened to."""
        heard_at = max(peer.last_heard, self._silence_counts_from)
        return now - heard_at > timeouts * self.settings.peer_timeout_s

    def _sweep_worker(self, worker: Worker, now: float) -> None:
        record = self.catalog.get(worker.key)
        timeout_s = record.response_timeout_s if record else self.settings.default_response_timeout_s
        startup_s = record.startup_timeout_s if record else self.settings.default_startup_timeout_s
        match worker.state:
            case WorkerState.STARTING if now - worker.since > startup_s:
                reason = f"not ready within startup_timeout of {startup_s} s"
                self._fail_worker(worker, reason, now)
                self._stop(worker, now, kill=True, reason=reason)
                self._report(logging.WARNING, "worker.late", worker=worker.worker_id, model=worker.key[0],
                             version=worker.key[1], reason=reason, was_ready=False,
                             **self._prospects(worker, now))  # fmt: skip
            case WorkerState.READY | WorkerState.DRAINING if overdue := self.jobs.overdue(
                worker, timeout_s, now
            ):
                self._give_up_stuck(worker, overdue, timeout_s, now)
            case WorkerState.READY if not worker.leases and self._is_silent(worker, now, 2):
                self._fail_worker(worker, "it is idle but silent", now)
                self._stop(worker, now, kill=True, reason="it is idle but silent")
            case WorkerState.DRAINING if worker.drain_until is not None and now >= worker.drain_until:
                self.jobs.take_back(
                    worker, worker.leases, now, reason="its time to finish was over", is_lost=True
                )
                self._stop(worker, now, kill=True, reason="its time to finish is over")
            case WorkerState.DRAINING if not worker.leases and not self._is_node_leaving(worker):
                self._stop(worker, now, kill=False, reason="it has nothing left to do")
            case WorkerState.STOPPING if now - worker.stop_sent_at > 2 * self.settings.stop_grace_s:
                self.jobs.take_back(
                    worker, worker.leases, now, reason="it could not be stopped", is_lost=True
                )
                if worker.node is None:
                    self._remove_worker(worker, now, "its node never came back")
                else:
                    self._order_stop(worker, now, kill=True, reason="it has not stopped yet")

    def _give_up_stuck(self, worker: Worker, overdue: Sequence[Lease], timeout_s: int, now: float) -> None:
        reason = f"no answer within response_timeout of {timeout_s} s"
        self.jobs.give_up(worker, overdue, reason, now)
        self._fail_worker(worker, reason, now)
        self.jobs.take_back(worker, worker.leases, now, reason=reason)
        self._stop(worker, now, kill=True, reason=reason)
        self._report(logging.WARNING, "worker.stuck", worker=worker.worker_id, model=worker.key[0],
                     version=worker.key[1], reason=reason, was_ready=True,
                     **self._prospects(worker, now))  # fmt: skip

    def _prospects(self, worker: Worker, now: float) -> dict[str, object]:
        """Say for the log how often workers failed in a row, and when the next one starts."""
        condition = self.fleet.condition(worker.key)
        if condition.has_given_up:
            return {"failures": condition.failures}
        return {
            "failures": condition.failures,
            "retry_in_s": max(0, math.ceil(condition.next_start_at - now)),
        }

    def _remember_nodes(self, now: float) -> None:
        names = frozenset(node.name for node in self.fleet.nodes.values() if not node.is_leaving)
        if names != self._remembered_nodes and not self.fleet.is_settling(now):
            self._remembered_nodes = names
            self.management.remember_nodes(tuple(sorted(names)))

    def _reconcile(self, now: float) -> None:
        """Close the gap between targets and workers, then tell callers who waited for that."""
        self._take_early(now)
        wanted = {(record.model, record.version): record for record in self.catalog}
        orders = self.fleet.reconcile(wanted, now)
        for worker in orders.stop:
            self._retire(worker, now)
        for worker, record in orders.start:
            assert worker.node is not None, worker
            self._send(worker.node, self._start_order(worker, record))
        for key in [key for key in self.jobs.queues if key not in wanted]:
            self.jobs.drop_queue(key)
        for key in self.stats.worker_failures.keys() - wanted.keys():
            del self.stats.worker_failures[key]
        for key, queue in self.jobs.queues.items():
            if queue.jobs and key in wanted and wanted[key].min_workers == 0 and not self.fleet.live(key):
                self.jobs.refuse_queue(key, "it has been scaled to 0 workers")
        self.management.after_reconciling(now)

    def _retire(self, worker: Worker, now: float) -> None:
        """Take a worker out of service: what it runs may end, within the patience that was asked for."""
        patience_s = self.management.patience_s(worker.key)
        if worker.state is WorkerState.STARTING or patience_s == 0:
            self.jobs.take_back(worker, worker.leases, now, reason="it was scaled away")
            self._stop(worker, now, kill=True, reason="it is not needed any more")
            return
        worker.move(WorkerState.DRAINING, now)
        self.jobs.leave_service(worker)
        worker.drain_until = None if patience_s < 0 else now + patience_s
        if not worker.leases:
            self._stop(worker, now, kill=False, reason="it is not needed any more")

    def _start_order(self, worker: Worker, record: VersionRecord) -> m.StartWorker:
        return m.StartWorker(
            worker.worker_id, record.model, record.version, record.archive, record.archive_bytes,
            record.handler or self.settings.default_service_handler, worker.device, worker.gpu_id,
            record.batch_size, self.settings.service_envelope, self.settings.decode_input_request,
            self.settings.limit_max_image_pixels, self.settings.max_response_size, record.url,
            self.management.installs_packages(record),
            metrics_config=self.metrics.file_content,
            gpu_ids=worker.gpu_ids if record.config.parallel_level else (),
            installs_only=worker.installs_only,
            registration=record.registration,
            archive_path=record.archive_path,
            claim=self._claims.make(worker.worker_id, worker.key, worker.archive),
        )  # fmt: skip

    # Sending

    def _emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def _send(self, peer: bytes, message: m.Message, frames: Sequence[Frame] = ()) -> None:
        self._effects.append(Send(peer, message, tuple(frames)))

    def _tell_gateways(self, message: m.Message) -> None:
        for peer in self.gateways:
            self._send(peer, message)

    def _report(self, level: int, event: str, **facts_: object) -> None:
        self._effects.append(Report(level, event, facts_))


def _load_label(worker: Worker) -> str:
    """Return what TorchServe calls a worker in its metrics."""
    model, version = worker.key
    return f"W-{worker.worker_id}-{model}_{version}"


_OF_THE_WHOLE_FLEET = (m.ReadFleet, m.ReadMetrics, m.ReadHealth, m.ListModels)
_WITH_FRAMES = (m.Submit, m.Streamed, m.Completed)
_FROM_GATEWAY: dict[type[m.Message], Callable[..., None]] = {
    m.Submit: BrokerCore._on_submit,
    m.Cancel: BrokerCore._on_cancel,
    m.GatewayBeat: BrokerCore._on_gateway_beat,
    m.Announced: BrokerCore._on_announced,
    m.Bye: BrokerCore._on_gateway_bye,
    **dict.fromkeys(get_args(m.Ask), BrokerCore._on_ask),
}
_FROM_WORKER: dict[type[m.Message], Callable[..., None]] = {
    m.Streamed: BrokerCore._on_streamed,
    m.Completed: BrokerCore._on_completed,
    m.WorkerBeat: BrokerCore._on_worker_beat,
    m.Measured: BrokerCore._on_measured,
    m.Bye: BrokerCore._on_worker_bye,
}
_FROM_NODE: dict[type[m.Message], Callable[..., None]] = {
    m.NodeBeat: BrokerCore._on_node_beat,
    m.NodeMeasured: BrokerCore._on_node_measured,
    m.WorkerProgressed: BrokerCore._on_progress,
    m.WorkerExited: BrokerCore._on_exited,
    m.FetchArchive: BrokerCore._on_fetch,
    m.Bye: BrokerCore._on_node_bye,
}
