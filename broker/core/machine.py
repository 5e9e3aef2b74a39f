"""The broker as a machine: events in, effects out.

No socket, no clock, no log, no random, no I/O: `server` does those. `handle` is the only way in: it takes
all events of one turn of the server's loop, start and stop among them, and returns what to do. So the jobs
of many messages make one batch, and the answers to one gateway make one message. Beside it the server reads
three things, and none of them changes anything: `next_wake` says when to call `handle` though nothing
happens; `peers.knows` and `held_bytes` say which peers have joined and what is held for each, by which
connections are judged.

What happens is passed on: to `peers` (hellos, silence), `jobs` (requests and their answers), `workers` (all
that becomes of a worker), `management` (registering, scaling) and `questions` (reads).

What always holds (see `tests/broker/invariants.py`):
- a job ends exactly once, and until then is in one queue or in one lease;
- a lease lies on one worker, which has a bounded number, and only the holder's result counts;
- a worker changes state by the table in `states`; a peer's nonsense changes nothing and is answered.

The wire may lose messages whenever a connection breaks. So every promise has a second way to be kept:
gateways ask for what they miss (`Forgotten`), workers' beats tell of leases that were never received or
whose result was lost, parts of answers are numbered, nodes' beats tell of workers that are not there, and
all else has a deadline.

The core's clock stands still while the broker does (`ListeningClock`): a broker that heard nothing doesn't
take its peers for silent. Clients' own limits, keys and times that people read go by real time.
"""

import logging
from collections.abc import Callable, Iterable
from traceback import format_tb
from typing import assert_never

from torchrelay.broker.core import events
from torchrelay.broker.core.answers import Answers, Gateway, ask_refused, job_refused
from torchrelay.broker.core.early_requests import EarlyRequests
from torchrelay.broker.core.effects import Effect, Outbox, ReadChunk, ShareMemory, WriteMetrics, WriteSnapshot
from torchrelay.broker.core.gateway_requests import GatewayRequests
from torchrelay.broker.core.keyring import Keyring
from torchrelay.broker.core.peers import Peers
from torchrelay.broker.core.questions import BrokerState, Questions
from torchrelay.broker.core.states import JobState
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.core.torchserve_metrics import Metrics
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.nodes import FleetNode
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.fleet.worker_claims import Claims
from torchrelay.broker.fleet.worker_lifecycle import WorkerLifecycle
from torchrelay.broker.jobs.jobs import Jobs
from torchrelay.broker.membership.members import Members
from torchrelay.broker.membership.membership_changes import MembershipChanges, OwnKeys
from torchrelay.broker.models.catalog import Catalog
from torchrelay.broker.models.changes import Management
from torchrelay.broker.models.records import Snapshot
from torchrelay.shared import clock, errors, ids
from torchrelay.shared.containment import first_fault
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame, WireError, split_frames
from torchrelay.shared.wire.curve import KeyPair, public_key_of
from torchrelay.shared.wire.presence import silence_s

#: Housekeeping happens this many times per beat: fine enough for timeouts, too rare to cost anything.
SWEEPS_PER_BEAT = 5
#: A turn that comes later than half a beat after the one before it: the broker stood still.
TURNS_PER_BEAT = 2
#: Events that raised and are logged one by one between two sweeps; each brings a traceback.
FAULTS_PER_SWEEP = 5
#: How long a gateway that missed a renewal of keys may open by the old ones.
KEYS_INTERVAL_S = 10.0
#: For so long nothing is started or stopped while nodes join, since what they bring may be what is missing: a
#: thousand workers take some 15 ms, and one that says hello again and again holds up others no longer.
JOINING_LIMIT_S = 1.0
#: The largest part of an archive that one message carries.
CHUNK_LIMIT_BYTES = 4 << 20

Frames = tuple[Frame, ...]
FromPeer = m.FromGateway | m.FromNode | m.FromWorker


class BrokerCore:
    """Takes events and passes them on to whom they concern; `now` in here is the core's time, in seconds."""

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
        own_keys: OwnKeys | None = None,
        new_key_pair: Callable[[], KeyPair] | None = None,
    ) -> None:
        self.settings = settings
        self.epoch = epoch
        self._clock = clock.ListeningClock(now, settings.beat_interval_s / TURNS_PER_BEAT)
        wall_of_real = clock.wall_of(now, wall_ms)
        #: Turns a time of the core into milliseconds since 1970.
        self._wall_ms: Callable[[float], int] = lambda at: wall_of_real(self._clock.real(at))
        self._outbox = outbox = Outbox()
        self.stats = Stats()
        self.metrics = metrics or Metrics()
        self.keys = keys or Keyring(settings, wall_of_real)
        wall_of_keys = self.keys.wall_ms
        self.keys.wall_ms = lambda at: wall_of_keys(self._clock.real(at))
        self.catalog = Catalog(snapshot)
        self.fleet = Fleet(
            epoch=epoch, claims=claims, awaited=snapshot.nodes, settle_until=now + settings.settle_s
        )
        self._answers = Answers(self.stats, outbox.send)
        self.gateways = self._answers.gateways
        self.jobs = Jobs(
            self.catalog, self.fleet, self.stats, settings,
            epoch=epoch, now=now, real_time=self._clock.real, answers=self._answers, send=outbox.send,
            report=outbox.report, new_sequence_id=new_sequence_id,
        )  # fmt: skip
        self.workers = WorkerLifecycle(
            self.fleet, self.jobs, self.catalog, self.stats, self.metrics, settings, claims,
            outbox.send, outbox.report, self._clock.real, self._wall_ms,
        )  # fmt: skip
        self.management = Management(
            self.catalog, self.fleet, settings, self.keys,
            epoch=epoch, emit=outbox.emit, tell_gateways=self._tell_gateways,
            change_members=lambda caller, ask, now: self.membership.ask(caller, ask, now),
        )  # fmt: skip
        self.members = Members(snapshot, self._wall_ms, now=now)
        self.membership = self._membership(own_keys, new_key_pair)
        self.early = EarlyRequests(
            self._answers, outbox.send, limit=settings.job_queue_size, limit_bytes=settings.queue_limit_bytes
        )
        self.peers = Peers(
            settings, self.fleet, self.workers, self._answers, self.jobs, self.management, self.early,
            self.keys, self.members, self.membership, self.stats, outbox, now,
        )  # fmt: skip
        self._questions = Questions(
            BrokerState(
                settings, self.catalog, self.fleet, self.jobs, self.management, self.stats, self.metrics,
                self.gateways, self.members, epoch, now, self._wall_ms, self._clock.real,
            ),
            outbox.send,
        )  # fmt: skip
        self.requests = GatewayRequests(
            self.catalog, self.fleet, self.jobs, self.early, self.management, self._questions, self.peers,
            self._answers, self.stats, self.metrics, outbox.send, self._wall_ms,
        )  # fmt: skip
        #: Of the turn.
        self._now, self._was_late = now, False
        self._sweep_due, self._was_sweep = now, False
        self._keys_due = now + KEYS_INTERVAL_S
        #: Until then comparing targets with what is there waits for nodes that join.
        self._reconcile_by = now
        #: Events that raised since the last sweep.
        self._faults = 0

    def _membership(
        self, own_keys: OwnKeys | None, new_key_pair: Callable[[], KeyPair] | None
    ) -> MembershipChanges:
        return MembershipChanges(
            self.members, own_keys, self.settings.join_addresses, new_key_pair, self._outbox.emit,
            new_token=self.management.new_token, reply=self.management.reply,
            refuse=self.management.refuse, tell_members=self._tell_secured, drain=self.fleet.set_draining,
            nodes_here=lambda: {node.name for node in self.fleet.nodes.values()},
        )  # fmt: skip

    # The shell's side

    def handle(self, came: Iterable[events.Event], *, now: float) -> list[Effect]:
        """Take in what happened and return what is to be done about it, in order; `now` is real time."""
        real_now, now = now, self._clock.turn(now)
        if self._was_late or self._clock.stood_still_s:
            self._allow_for_standing_still(now)
        self._now = now
        if not self.peers.joining:
            self._reconcile_by = now + JOINING_LIMIT_S
        coming = iter(came)
        while fault := first_fault(coming, self._take):
            self._contain(*fault, now)
        self._go_on_with_the_fleet(now)
        self.jobs.end_turn(now, real_now)
        if self._questions.waiting:
            self._questions.answer_some(now)
        for gateway in self.gateways.values():
            if gateway.answered or gateway.refused:
                self._answers.flush(gateway)
        if self.metrics.is_logging and (lines := self.metrics.take_lines(self.stats, self._wall_ms(now))):
            self._outbox.emit(WriteMetrics(lines))
        return self._outbox.take()

    def next_wake(self) -> float:
        """Return the real time at which `handle` must be called even without events."""
        if self._questions.waiting or self._is_behind():
            return 0.0  # no clock of ours shows less
        return min(self._clock.wake(min(self._sweep_due, self.jobs.next_due())), self.jobs.next_deadline())

    def _is_behind(self) -> bool:
        """Tell whether there was more to do than one turn does of it."""
        left = self.peers.to_beat.left or self.workers.lost or self.peers.joining
        return bool(left) or self.fleet.must_reconcile

    def why_not_admitted(self, public_key: str) -> str:
        """Say why a public key lets nobody in, empty where it does; asked at handshakes, between turns."""
        return self.members.why_not(public_key, self._now)

    def is_at_rest(self) -> bool:
        """Tell whether nothing runs that a stop would cut off; a registration may take hours."""
        return not self.jobs.leases

    def held_bytes(self) -> dict[bytes, int]:
        """Return what is held of each gateway's jobs; what waits for the end of the start is in none."""
        return {peer: sum(job.size for job in one.jobs.values()) for peer, one in self.gateways.items()}

    # Taking events

    def _take(self, event: events.Event) -> None:
        now = self._now
        match event:
            case events.Received():
                try:
                    self._receive(event, now)
                except WireError as error:
                    self.peers.misunderstand(event.peer, str(error))
            case events.Garbled(peer, reason):
                self.peers.misunderstand(peer, reason)
            case events.Unreachable(peer, message):
                self._not_sent(peer, message, now)
            case events.Unsendable(peer, message, reason):
                self._could_not_send(peer, message, reason, now)
            case _:
                self._take_other(event, now)

    def _take_other(self, event: events.Own, now: float) -> None:
        match event:
            case events.Stored(token, error) if self.membership.is_storing(token):
                self.peers.end(self.membership.stored(error, now), now)
            case events.ArchivePrepared() | events.WorkflowPrepared() | events.Stored():
                self.management.continue_with(event, now)
            case events.ChunkRead(peer, archive, offset, total, data):
                if data is None:
                    self._outbox.send(peer, m.ArchiveMissing(archive))
                else:
                    self._outbox.send(peer, m.ArchiveChunk(archive, offset, total), (data,))
            case events.MetricsNotWritten(lines):
                self.metrics.dropped["log behind"] += lines
            case events.Started(loads):
                for load in loads:
                    self.management.load_at_start(load)
            case events.Leaving():
                self.jobs.hold_back()
            case events.Stopping():
                if self.settings.snapshot_dir is not None:
                    self._outbox.emit(WriteSnapshot(0, "shutdown", self.catalog.as_startup_models()))
            case _:
                assert_never(event)

    def _receive(self, event: events.Received, now: float) -> None:
        # Whatever else a peer may say ends in the last case of each of the three below.
        message: FromPeer = event.message  # type: ignore[assignment]
        peer = event.peer
        if event.epoch != self.epoch:
            self._receive_unknown(peer, message, now)
        elif gateway := self.gateways.get(peer):
            gateway.last_heard = now
            self._from_gateway(gateway, message, event.frames, now)
        elif worker := self.workers.by_peer.get(peer):
            worker.last_heard = now
            if worker.is_cut and worker not in self.workers.lost:
                worker.is_cut = False
                worker.touch()
                self.jobs.touch(worker.key)
            self._from_worker(worker, peer, message, event.frames, now)
        elif node := self.fleet.nodes.get(peer):
            self.fleet.hear_node(node, now)
            if peer in self.peers.joining and not isinstance(message, m.HelloNode):
                self.peers.end_joining(peer, now)
            self._from_node(node, message, event.frames, now)
        else:
            self._receive_unknown(peer, message, now)

    def _receive_unknown(self, peer: bytes, message: m.Message, now: float) -> None:
        """Take a hello; ask for one who says anything else before it, or after a restart of the broker."""
        match message:
            case m.HelloGateway() | m.HelloNode() | m.HelloWorker():
                self.peers.greet(peer, message, now)
            case m.Enrol():
                self.peers.enrol(peer, message, now)
            case _ if self.peers.is_admitted(peer, now):
                self._outbox.send(peer, m.IntroduceYourself())

    # By sender; what comes most often stands first. The last case is for what the sender may not say: mypy
    # checks that only that is left there, so that a message which joins a union needs a case.

    def _from_gateway(self, gateway: Gateway, message: FromPeer, frames: Frames, now: float) -> None:
        match message:
            case m.Submit():
                self.requests.submit(gateway, message, frames, now)
            case _ if frames:
                self._refuse(gateway.peer, message, "carries no frames")
            case m.Cancel():
                self.requests.cancel(gateway, message)
            case m.GatewayBeat():
                self.requests.beat(gateway, message, now)
            case m.Announced():
                gateway.last_heard = now + silence_s(message)
            case m.Missed():
                self._answers.send_again(gateway, message.after)
            case m.OfferMemory() | m.ReadsMemory():
                self._outbox.emit(ShareMemory(gateway.peer, message))
            case (m.RegisterModel() | m.UnregisterModel() | m.ScaleWorkers() | m.SetDefault() | m.RenewKey()
                  | m.Invite() | m.EndInvitation() | m.ChangeMember() | m.RotateBrokerKey() | m.ReadMembers()
                  | m.DescribeModel() | m.ListModels() | m.ReadFleet() | m.ReadMetrics() | m.ReadHealth()
                  | m.ReadReadiness() | m.RegisterWorkflow() | m.UnregisterWorkflow() | m.DescribeWorkflow()
                  | m.ListWorkflows()):  # fmt: skip
                self.requests.ask(gateway, message, now)
            case m.Bye():
                self.peers.drop_gateway(gateway, "it said goodbye")
            case m.HelloGateway() | m.HelloNode() | m.HelloWorker():
                self.peers.greet(gateway.peer, message, now)
            case _:
                misdirected: m.FromNode | m.FromWorker = message
                self._refuse(gateway.peer, misdirected, "is not for a gateway to say")

    def _from_worker(
        self, worker: FleetWorker, peer: bytes, message: FromPeer, frames: Frames, now: float
    ) -> None:
        match message:
            case m.Completed():
                self._completed(worker, peer, message, frames, now)
            case m.Streamed():
                if not worker.answers.takes(message.serial):
                    self._ask_for_missed(worker, peer)
                    return
                parts = split_frames([item.frames for item in message.items], frames)
                self.jobs.streamed(worker, message, parts, now)
            case m.CompletedInRow(batches):
                counts = [sum([item.frames for item in done.items]) for done in batches]
                for done, its_frames in zip(batches, split_frames(counts, frames), strict=True):
                    self._completed(worker, peer, done, its_frames, now)
            case _ if frames:
                self._refuse(peer, message, "carries no frames")
            case m.WorkerBeat():
                worker.answers.told(message.serial)
                self._ask_for_missed(worker, peer)
                self.workers.beat(worker, message, now)
            case m.Measured():
                self.metrics.measured(message.hostname, message.points, by_node=False)
            case m.OfferMemory() | m.ReadsMemory():
                self._outbox.emit(ShareMemory(peer, message))
            case m.Bye():
                self.workers.said_goodbye(worker, now)
            case m.HelloGateway() | m.HelloNode() | m.HelloWorker():
                self.peers.greet(peer, message, now)
            case _:
                misdirected: m.FromGateway | m.FromNode = message
                self._refuse(peer, misdirected, "is not for a worker to say")

    def _completed(
        self, worker: FleetWorker, peer: bytes, done: m.Completed, frames: Frames, now: float
    ) -> None:
        if not worker.answers.takes(done.serial):
            self._ask_for_missed(worker, peer)
            return
        parts = split_frames([item.frames for item in done.items], frames)
        if self.jobs.completed(worker, done, parts, now):
            self.workers.completed_batch(worker, now)

    def _ask_for_missed(self, worker: FleetWorker, peer: bytes) -> None:
        if worker.answers.has_missed:
            worker.answers.has_missed = False
            self._outbox.send(peer, m.Missed(worker.answers.latest))

    def _from_node(self, node: FleetNode, message: FromPeer, frames: Frames, now: float) -> None:
        match message:
            case _ if frames:
                self._refuse(node.peer, message, "carries no frames")
            case m.NodeBeat():
                self.workers.reported(node, dict(message.memory), now)
            case m.NodeMeasured():
                self.fleet.measured(node, message, now)
                self.metrics.measured(message.hostname, message.points, by_node=True)
            case m.WorkerProgressed():
                self.workers.progressed(node, message, now)
            case m.WorkerExited():
                self.peers.remove_worker_key(node, message.worker_id)
                self.workers.exited(node, message, now)
            case m.WorkerKey(worker_id, public_key):
                self.peers.add_worker_key(node, worker_id, public_key)
            case m.FetchArchive():
                self._on_fetch(node, message)
            case m.NodeLeaves(grace_ms):
                self.workers.node_will_leave(node, grace_ms, now)
            case m.Bye():
                self.workers.node_leaves(node, now)
            case m.HelloGateway() | m.HelloNode() | m.HelloWorker():
                self.peers.greet(node.peer, message, now)
            case _:
                misdirected: m.FromGateway | m.FromWorker = message
                self._refuse(node.peer, misdirected, "is not for a node to say")

    def _go_on_with_the_fleet(self, now: float) -> None:
        """Do as much of what is due as one turn may: whoever sends requests waits meanwhile."""
        # Not two in a row where more is to be done: turns may be so slow that one is due in each of them.
        is_sweep = now >= self._sweep_due and not (self._was_sweep and self._is_behind())
        if is_sweep:
            self._sweep(now)
        elif self.workers.lost:
            self.workers.remove_lost(now)
        elif self.peers.to_beat.left:
            self.peers.beat_some()
        if self.peers.joining and (now < self._reconcile_by or not self.fleet.must_reconcile):
            self._go_on_joining(now)
        elif self.fleet.must_reconcile and not is_sweep:  # what a sweep finds, the next turn sees to
            self._reconcile(now)
        self._was_sweep = is_sweep

    def _go_on_joining(self, now: float) -> None:
        """Take in some more of what a node came with, as part of its hello: if that raises, so did this."""
        peer, joining = next(iter(self.peers.joining.items()))
        hello = events.Received(peer, joining.hello, self.epoch)
        if fault := first_fault(iter((hello,)), lambda _: self.peers.go_on_joining(peer, now)):
            self._contain(*fault, now)

    def _refuse(self, peer: bytes, message: m.Message, why: str) -> None:
        self.peers.misunderstand(peer, f"{type(message).__name__} {why}")

    def _contain(self, event: events.Event, error: Exception, now: float) -> None:
        """Report an event that raised; if it was a peer's message, the peer is dropped.

        What the event had changed so far stays, and so do its effects, which belong together. All that may
        be half done concerns the peer, and ends with it: dropping it takes back, cancels and answers what it
        had. Should that raise as well, the turn has failed, see `server`.
        """
        message = event.message if isinstance(event, events.Received) else event
        peer = event.peer if isinstance(event, events.Received) else b""
        self._faults += 1
        if self._faults <= FAULTS_PER_SWEEP:
            self._outbox.report(
                logging.ERROR, "broker.fault", kind=type(message).__name__, content=quoted(message),
                reason=quoted(f"{type(error).__name__}: {error}"), peer=ids.shown_peer(peer),
                at="".join(format_tb(error.__traceback__)),
            )  # fmt: skip
        if isinstance(event, events.Received):
            # By this a gateway ends what waits there: it would else send the same again.
            self.peers.misunderstand(peer, f"{type(message).__name__} met a fault in the broker")
            self.peers.drop(peer, now)

    # From nodes

    def _on_fetch(self, node: FleetNode, fetch: m.FetchArchive) -> None:
        if not self.catalog.is_archive_used(fetch.archive) or not self.peers.may_fetch(node, fetch.archive):
            self._outbox.send(node.peer, m.ArchiveMissing(fetch.archive))
        elif fetch.offset < 0 or not 0 < fetch.length <= CHUNK_LIMIT_BYTES:
            self.peers.misunderstand(node.peer, f"a chunk of {fetch.length} bytes from {fetch.offset}")
        else:
            self._outbox.emit(ReadChunk(node.peer, fetch.archive, fetch.offset, fetch.length))

    # What was not sent

    def _not_sent(self, peer: bytes, message: m.Message, now: float) -> None:
        """Undo what a message without a connection was to bring about.

        A worker is given nothing more until it is heard again, and a batch that did not leave goes
        elsewhere. What it was running is not touched: it may come back with it, and if it died, its
        node says so. A start that did not leave is nobody's failure; it goes to another node.
        """
        if worker := self.workers.by_peer.get(peer):
            worker.is_cut = True
            worker.touch()
            if isinstance(message, m.Assign):
                self.jobs.take_back_unsent(worker, message.leases, now)
            return
        self.fleet.cut_node(peer)
        if isinstance(message, m.StartWorker):
            reason = "the order to start it found no node"
            self.workers.not_started(message.worker_id, reason, now, is_failure=False)

    def _could_not_send(self, peer: bytes, message: m.Message, reason: str, now: float) -> None:
        """Answer for a message that can't be written, and would not be another time: the fault is ours."""
        error = errors.InternalError("Internal error in the broker", reason)
        if isinstance(message, m.Reply):
            self._outbox.send(peer, ask_refused(message.ask, error))
        elif isinstance(message, m.Answered | m.Refused):
            items = tuple(job_refused(item.job, error) for item in message.items)
            self._outbox.send(peer, m.Refused(items))
        elif isinstance(message, m.StartWorker):
            self.workers.not_started(message.worker_id, reason, now, is_failure=True)
        elif isinstance(message, m.Assign) and (worker := self.workers.by_peer.get(peer)):
            jobs = [job for lease in worker.leases if lease.number in message.leases for job in lease.jobs]
            for job in jobs:
                if job.state is JobState.RUNNING:
                    self._answers.refuse(job, error)
            self.jobs.take_back_unsent(worker, message.leases, now)
            self.jobs.touch(worker.key)

    # Time

    def _sweep(self, now: float) -> None:
        """Housekeeping: beats, silent peers, deadlines, restarts."""
        self._sweep_due = now + self.settings.beat_interval_s / SWEEPS_PER_BEAT
        self.peers.report_complaints()
        if self._faults > FAULTS_PER_SWEEP:
            self._outbox.report(logging.ERROR, "broker.fault", reason="more messages met a fault",
                                messages=self._faults - FAULTS_PER_SWEEP)  # fmt: skip
        self._faults = 0
        self.peers.beat(now)
        if self.settings.token_authorization and now >= self._keys_due:
            self._keys_due = now + KEYS_INTERVAL_S
            self._tell_gateways(self.keys.message(now))  # nobody would miss one that was lost
        self.peers.drop_silent(now)
        self.peers.note_heard(now)
        self.membership.sweep(now)
        self.workers.sweep(now, self.peers.listened_since)
        self.jobs.expire(now)
        self.early.expire(self.management.loading, now)
        self.jobs.recovery.expire(now)
        self.management.remember_nodes(now)
        self.fleet.sweep(self.catalog.versions)

    def _allow_for_standing_still(self, now: float) -> None:
        """Read what lies waiting before anybody is judged, in a turn that comes too late.

        The next turn judges even if it is late as well: a broker that is slow for good has deadlines, too.
        """
        stood_still_s = self._clock.stood_still_s
        if stood_still_s > 0 and not self._was_late:
            self._sweep_due = max(self._sweep_due, now + self.settings.beat_interval_s / SWEEPS_PER_BEAT)
            self.peers.hear_first(self._sweep_due)
        if stood_still_s > self.settings.peer_timeout_s / 2:
            self.peers.stood_still(stood_still_s, now)
        self._was_late = stood_still_s > 0

    def _reconcile(self, now: float) -> None:
        """Close the gap between targets and workers, then tell callers who waited for that."""
        self.requests.take_waiting(now)
        wanted = self.catalog.versions
        orders = self.fleet.reconcile_some(wanted, now)
        for worker in orders.stop:
            self.workers.retire(worker, self.management.patience_for(worker.key), now)
        for worker in orders.start:
            record = wanted[worker.key]
            installs_packages = self.management.installs_packages(record)
            self.workers.start(worker, record, installs_packages=installs_packages)
        for key in orders.compared:
            queue = self.jobs.queues.get(key)
            if key not in wanted:
                self.stats.worker_failures.pop(key, None)
                if queue is not None:
                    self.jobs.drop_queue(key)
            elif queue and wanted[key].min_workers == 0 and not self.fleet.live_count(key):
                self.jobs.refuse_queue(key, "it has been scaled to 0 workers")
        self.management.after_reconciling(orders.done, now)

    def _tell_gateways(self, message: m.Message) -> None:
        for peer in self.gateways:
            self._outbox.send(peer, message)

    def _tell_secured(self, message: m.Message) -> None:
        for peer in (*self.gateways, *self.fleet.nodes, *self.workers.by_peer):
            if public_key_of(peer) is not None:
                self._outbox.send(peer, message)
