"""The broker as a machine: events in, effects out.

No socket, no clock, no log, no random, no I/O: `server` does those. `handle` takes all events of one
turn of its loop and returns what to do, so that the jobs of many messages make one batch and the
answers to one gateway make one message. `next_wake` says when to come back though nothing happens.

What always holds (see `tests/broker/invariants.py`):
- a job ends exactly once, and until then is in one queue or in one lease;
- a lease lies on one worker, a worker has at most two, and only the holder's result counts;
- a worker changes state by the table in `states`; a peer's nonsense changes nothing and is answered.

The wire may lose messages whenever a connection breaks. So every promise has a second way to be kept:
gateways ask for what they miss (`Forgotten`), idle beats tell of leases that were never received or
whose result was lost, nodes' beats tell of workers that are not there, and all else has a deadline.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from broker import facts, policy
from broker.catalog import Catalog, Key
from broker.effects import Effect, ReadChunk, Report, Send
from broker.events import ArchivePrepared, ChunkRead, Event, Garbled, Received, Stored, Unreachable
from broker.fleet import Fleet, Node, Worker
from broker.keys import Keyring
from broker.management import Management
from broker.queues import Job, Lease, VersionQueue
from broker.records import Snapshot, VersionRecord
from broker.states import JobState, WorkerState
from broker.stats import Stats
from shared import errors
from shared import messages as m
from shared.settings import BrokerSettings
from shared.wire import Frame, WireError, split_frames

#: Housekeeping happens this many times per beat: fine enough for timeouts, too rare to cost anything.
SWEEPS_PER_BEAT = 5
#: The largest part of an archive that one message carries.
CHUNK_LIMIT_BYTES = 4 << 20
STATUS_CLASSES = frozenset(("1xx", "2xx", "3xx", "4xx", "5xx"))
#: Answers in one message to a gateway; what a turn has above it goes in further ones.
ANSWERS_PER_MESSAGE = 256


@dataclass(slots=True, eq=False)
class Gateway:
    """A gateway process: what it waits for, and what it is told at the end of the turn."""

    peer: bytes
    name: str
    last_heard: float
    #: Its jobs that have not ended, by its own numbers.
    jobs: dict[int, Job] = field(default_factory=dict)
    answered: list[m.AnsweredItem] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    refused: list[m.RefusedItem] = field(default_factory=list)


class BrokerCore:
    """Peers, queues, leases; registration and scaling are `management`'s, workers' lives `fleet`'s."""

    def __init__(
        self,
        settings: BrokerSettings,
        snapshot: Snapshot,
        keys: Keyring | None = None,
        *,
        epoch: int,
        now: float,
        wall_ms: int,
    ) -> None:
        self.settings = settings
        self.epoch = epoch
        self.catalog = Catalog(snapshot)
        self.fleet = Fleet(
            epoch=epoch,
            restart_window_s=settings.restart_window_s,
            awaited=snapshot.nodes,
            settle_until=now + settings.settle_s,
        )
        self.stats = Stats()
        self.queues: dict[Key, VersionQueue] = {}
        self.leases: dict[int, Lease] = {}
        self.gateways: dict[bytes, Gateway] = {}
        self.keys = keys or Keyring(settings, now=now, wall_ms=wall_ms)
        self.management = Management(
            self.catalog, self.fleet, settings, self.keys, emit=self._emit, tell_gateways=self._tell_gateways
        )
        self.started_at = now
        self._wall_offset_ms = wall_ms - now * 1000
        #: Peer id -> worker, for workers that have said hello.
        self._workers: dict[bytes, Worker] = {}
        self._effects: list[Effect] = []
        self._next_lease = 1
        #: Bytes waiting in all queues.
        self._queued_bytes = 0
        #: Versions whose queue or workers changed in this turn.
        self._dirty: set[Key] = set()
        #: When a batch that waits for company has waited enough.
        self._batch_due: dict[Key, float] = {}
        self._sweep_due = now
        self._swept_at = now
        #: Since when peers are listened to without a break.
        self._silence_counts_from = now
        self._beat_due = now
        self._remembered_nodes = frozenset(snapshot.nodes)

    # The shell's side

    def handle(self, events: Iterable[Event], *, now: float) -> list[Effect]:
        """Take in what happened and return what is to be done about it, in order."""
        for event in events:
            self._take(event, now)
        if now >= self._sweep_due:
            self._sweep(now)
        if self.management.is_dirty:
            self._reconcile(now)
        for key in [key for key, due in self._batch_due.items() if due <= now]:
            self._dirty.add(key)
        while self._dirty:
            self._dispatch(self._dirty.pop(), now)
        for gateway in self.gateways.values():
            self._flush(gateway)
        effects, self._effects = self._effects, []
        return effects

    def next_wake(self) -> float:
        """Return the time at which `handle` must be called even without events."""
        return min((self._sweep_due, *self._batch_due.values()))

    def wall_ms(self, at: float) -> int:
        """Turn a time of the core into milliseconds since 1970."""
        return int(at * 1000 + self._wall_offset_ms)

    def queue_of(self, key: Key) -> VersionQueue:
        """Return a version's queue, making it at first use."""
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = VersionQueue(key, self.settings.job_queue_size)
        return queue

    @property
    def nodes(self) -> list[Node]:
        """The nodes that are here to stay; one that has said goodbye is kept until it falls silent."""
        return [node for node in self.fleet.nodes.values() if not node.is_leaving]

    # Taking events

    def _take(self, event: Event, now: float) -> None:
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
            gateway.last_heard = now
            self._call(_FROM_GATEWAY, gateway, event, now)
        elif worker := self._workers.get(peer):
            worker.last_heard = now
            if worker.is_cut:
                worker.is_cut = False
                self._dirty.add(worker.key)
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
        self._send(peer, m.Misunderstood(reason))
        self._report(logging.WARNING, "message.misunderstood", peer=peer.hex(), reason=reason)

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
        others = [table for kind, table in self._peer_tables().items() if kind is not type(hello)]
        if any(peer in table for table in others):
            self._misunderstand(peer, f"a second hello as another kind of peer, {type(hello).__name__}")
            return
        is_new = peer not in self._peer_tables()[type(hello)]
        match hello:
            case m.HelloGateway():
                if is_new:
                    self.gateways[peer] = Gateway(peer, hello.name, now)
                    self._report(logging.INFO, "gateway.joined", gateway=hello.name, pid=hello.pid)
            case m.HelloNode():
                self.fleet.add_node(peer, hello, now)
                self.management.is_dirty = True
                if is_new:
                    self._report(logging.INFO, "node.joined", node=hello.name, held=len(hello.workers))
            case m.HelloWorker():
                if not self._greet_worker(peer, hello, now):
                    return
        beat_ms = int(self.settings.beat_interval_s * 1000)
        self._send(peer, m.Welcome(beat_ms, int(self.settings.peer_timeout_s * 1000), is_new))
        if isinstance(hello, m.HelloGateway) and self.settings.token_authorization:
            self._send(peer, self.keys.message(now))

    def _peer_tables(self) -> dict[type[m.Message], dict[bytes, Any]]:  # Any: only keys are read
        return {m.HelloGateway: self.gateways, m.HelloNode: self.fleet.nodes, m.HelloWorker: self._workers}

    def _greet_worker(self, peer: bytes, hello: m.HelloWorker, now: float) -> bool:
        record = self.catalog.get((hello.model, hello.version))
        if record is None or record.archive != hello.archive:
            self._send(peer, m.Leave(f"{hello.model} {hello.version} of this archive isn't registered"))
            return False
        worker = self.fleet.add_worker(peer, hello, now)
        if worker is None:
            self._send(peer, m.Leave("it was told to stop"))
            return False
        if peer not in self._workers:
            self._take_back(worker, worker.leases, reason="it joined anew")
            self._workers[peer] = worker
            self._report(logging.INFO, "worker.ready", worker=worker.worker_id, model=hello.model,
                         version=hello.version, node=hello.node, device=hello.device)  # fmt: skip
        self.management.is_dirty = True
        self._dirty.add(worker.key)
        return True

    # From gateways

    def _on_submit(self, gateway: Gateway, event: Received, now: float) -> None:
        message = event.message
        assert isinstance(message, m.Submit)
        parts = split_frames([item.frames for item in message.items], event.frames)
        for item, frames in zip(message.items, parts, strict=True):
            if item.job not in gateway.jobs:
                self._admit(gateway, item, frames, now)

    def _admit(self, gateway: Gateway, item: m.SubmitItem, frames: tuple[Frame, ...], now: float) -> None:
        try:
            record = self.catalog.resolve(item.model, item.version)
        except errors.RelayError as error:
            gateway.refused.append(m.RefusedItem(item.job, error.name, error.message, ""))
            return
        key = (record.model, record.version)
        limit_s = float(record.response_timeout_s)
        if item.wait_limit_ms:
            limit_s = min(limit_s, item.wait_limit_ms / 1000)
        job = Job(
            gateway.peer, item.job, key, item.version is not None, item.is_describe, item.meta, frames,
            len(item.meta) + sum(map(len, frames)), now, now + limit_s,
        )  # fmt: skip
        self.stats.versions[key].submitted += 1
        gateway.jobs[job.number] = job
        queue = self.queue_of(key)
        if why_not := self._why_not_admit(record, queue, job, now):
            self._refuse(job, self._no_worker(job, why_not))
            return
        if queue.futile_waits:
            is_running = any(worker.leases for worker in self.fleet.of_version(key))
            queue.futile_waits = policy.learn_from_arrival(queue.futile_waits, is_running=is_running)
        queue.push(job)
        self._queued_bytes += job.size
        self._dirty.add(key)

    def _why_not_admit(self, record: VersionRecord, queue: VersionQueue, job: Job, now: float) -> str:
        if record.min_workers == 0 and not self.fleet.live(queue.key):
            return "it has been scaled to 0 workers"
        if self.fleet.has_given_up(queue.key) and not self.fleet.live(queue.key):
            return f"its workers failed too often: {self.fleet.condition(queue.key).last_error}"
        # What ran on workers before a restart comes back as waiting: it had been accepted.
        is_coming_back = self.epoch > 1 and now - self.started_at < self.settings.settle_s
        if len(queue) >= queue.limit_jobs and not is_coming_back:
            self._dispatch(queue.key, now)  # a burst fills the workers first, then the queue
        if len(queue) >= queue.limit_jobs and not is_coming_back:
            return f"its queue holds {len(queue)} jobs, the limit of job_queue_size"
        if self._queued_bytes + job.size > self.settings.queue_limit_bytes:
            return f"the queues hold {self._queued_bytes} bytes, the limit of queue_limit_bytes"
        return ""

    def _no_worker(self, job: Job, details: str) -> errors.ServiceUnavailable:
        """TorchServe's one text for "no worker", "queue full" and the like; the stray quote is its own."""
        model, version = job.key
        named = f'Model "{model}" Version {version}"' if job.names_version else f'Model "{model}"'
        if job.is_describe:
            return errors.ServiceUnavailable(
                f"{named} has no worker to serve describe request. "
                "Please use scale workers API to add workers.",
                details,
            )
        return errors.ServiceUnavailable(
            f"{named} has no worker to serve inference request. Please use scale workers API to add workers. "
            "If this is a sequence inference, please check if it is closed, or expired; "
            "or exceeds maxSequenceJobQueueSize",
            details,
        )

    def _on_cancel(self, gateway: Gateway, event: Received, now: float) -> None:
        assert isinstance(event.message, m.Cancel)
        for number in event.message.jobs:
            if job := gateway.jobs.get(number):
                self._cancel(job)

    def _cancel(self, job: Job) -> None:
        """End a job nobody waits for: at once if it is queued; if it runs, its answer goes nowhere."""
        if job.state is JobState.QUEUED:
            self.queues[job.key].remove(job)
            self._queued_bytes -= job.size
        self._end(job, "cancelled")

    def _on_gateway_beat(self, gateway: Gateway, event: Received, now: float) -> None:
        beat = event.message
        assert isinstance(beat, m.GatewayBeat)
        for status_class in STATUS_CLASSES & beat.responses.keys():
            self.stats.responses[status_class] += beat.responses[status_class]
        jobs = tuple(number for number in beat.jobs if number not in gateway.jobs)
        asks = tuple(ask for ask in beat.asks if not self.management.is_pending(gateway.peer, ask))
        if jobs or asks:
            self._flush(gateway)  # what it misses may be among the answers of this very turn
            self._send(gateway.peer, m.Forgotten(jobs, asks))

    def _on_gateway_bye(self, gateway: Gateway, event: Received, now: float) -> None:
        self._drop_gateway(gateway, "it said goodbye")

    def _drop_gateway(self, gateway: Gateway, reason: str) -> None:
        for job in list(gateway.jobs.values()):
            self._cancel(job)
        self.management.forget_peer(gateway.peer)
        del self.gateways[gateway.peer]
        self._report(logging.INFO, "gateway.left", gateway=gateway.name, reason=reason)

    def _on_ask(self, gateway: Gateway, event: Received, now: float) -> None:
        ask = event.message
        if isinstance(ask, m.Question):
            self._send(gateway.peer, facts.answer(self, ask, now))
        else:
            assert isinstance(ask, m.Change)
            self.management.ask(gateway.peer, ask, now)

    # From workers

    def _on_completed(self, worker: Worker, event: Received, now: float) -> None:
        done = event.message
        assert isinstance(done, m.Completed)
        parts = split_frames([item.frames for item in done.items], event.frames)
        lease = self.leases.get(done.lease)
        if lease is None or lease.worker_id != worker.worker_id:
            self.stats.stale_results += 1
            return
        if len(done.items) != len(lease.jobs):
            raise WireError(f"{len(done.items)} results for a batch of {len(lease.jobs)}")
        # A worker runs its batches in order: what should have come before never reached it.
        skipped = worker.leases[: worker.leases.index(lease)]
        self._take_back(worker, skipped, reason="the batch was lost on its way")
        self._drop_lease(worker, lease, now)
        stats = self.stats.versions[lease.key]
        stats.handler_seconds.observe(done.handler_us / 1e6)
        if lease.began_at is not None:
            queue = self.queue_of(lease.key)
            queue.service_s = policy.smooth_service(queue.service_s, now - lease.began_at)
        self.fleet.count_success(worker)
        for job, item, frames in zip(lease.jobs, done.items, parts, strict=True):
            if job.state is JobState.RUNNING:
                gateway = self.gateways[job.gateway]
                gateway.answered.append(m.AnsweredItem(job.number, item.meta, item.frames))
                gateway.frames.extend(frames)
                if len(gateway.answered) >= ANSWERS_PER_MESSAGE:
                    self._flush(gateway)
                stats.total_seconds.observe(now - job.arrived_at)
                self._end(job, "answered")
        if worker.state is WorkerState.DRAINING and not worker.leases:
            self._stop(worker, now, kill=False, reason="it has finished its batches")
        self._dirty.add(lease.key)

    def _on_worker_beat(self, worker: Worker, event: Received, now: float) -> None:
        """An idle worker holds no lease, so what was assigned a while ago got lost on the way."""
        if worker.leases and now - worker.last_assigned_at > self.settings.peer_timeout_s:
            self._take_back(worker, worker.leases, reason="the batch or its result was lost", is_lost=True)
            self._dirty.add(worker.key)

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
        for worker_id in held.keys() - self.fleet.workers.keys():
            self._send(node.peer, m.StopWorker(worker_id, kill=True, reason="the broker doesn't know it"))

    def _on_progress(self, node: Node, event: Received, now: float) -> None:
        progress = event.message
        assert isinstance(progress, m.WorkerProgressed)
        worker = self.fleet.workers.get(progress.worker_id)
        if worker is None or worker.node != node.peer or worker.state is not WorkerState.STARTING:
            return
        worker.last_heard = now
        if progress.phase != "loading" or worker.note != "loading":
            worker.since = now  # startup_timeout is for loading; fetching has its own pace
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
        if worker.state in (WorkerState.STARTING, WorkerState.READY) and not node.is_leaving:
            self._fail_worker(worker, gone.reason, now, out_of_memory=gone.out_of_memory)
            self._report(logging.WARNING, "worker.failed", worker=worker.worker_id, model=worker.key[0],
                         version=worker.key[1], node=node.name, reason=gone.reason, exit_code=gone.exit_code,
                         signal=gone.signal, output="\n".join(gone.last_lines))  # fmt: skip
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
        for worker in self.fleet.of_node(node.peer):
            if worker.state is WorkerState.READY:
                worker.move(WorkerState.DRAINING, now)
        self.management.is_dirty = True
        self._report(logging.INFO, "node.leaving", node=node.name)

    def _drop_node(self, node: Node, now: float) -> None:
        for worker in self.fleet.remove_node(node.peer):
            if not node.is_leaving:
                self.stats.worker_failures[worker.key] += 1
            self._remove_worker(worker, now, f"its node {node.name} was lost")
        self.management.is_dirty = True
        self._report(logging.INFO if node.is_leaving else logging.WARNING, "node.left", node=node.name)

    # Dispatch

    def _dispatch(self, key: Key, now: float) -> None:
        """Give a version's waiting jobs to its workers, as far as `policy` lets them go."""
        self._batch_due.pop(key, None)
        queue = self.queues.get(key)
        record = self.catalog.get(key)
        if queue is None or record is None:
            return
        for job in queue.take_expired(now):
            self._queued_bytes -= job.size
            waited = f"it waited {now - job.arrived_at:.0f} s in the queue; "
            self._refuse(job, self._no_worker(job, waited + (self.fleet.explain(record, now) or "all busy")))
        while queue.jobs:
            worker_id = policy.choose_worker(
                self._candidates(key, now),
                depth=len(queue),
                batch_size=record.batch_size,
                service_s=queue.service_s,
            )
            if worker_id is None:
                return
            wait_s = 0.0 if queue.jobs[0].is_describe else policy.batch_wait(
                depth=len(queue), batch_size=record.batch_size,
                max_batch_delay_s=record.max_batch_delay_ms / 1000,
                head_age_s=now - queue.jobs[0].arrived_at, futile_waits=queue.futile_waits,
            )  # fmt: skip
            if wait_s > 0:
                self._batch_due[key] = now + wait_s
                return
            self._assign(queue, record, self.fleet.workers[worker_id], now)

    def _candidates(self, key: Key, now: float) -> list[policy.Candidate]:
        late = now - 2 * self.settings.beat_interval_s
        return [
            policy.Candidate(
                worker.worker_id,
                len(worker.leases),
                worker.last_assigned_at,
                (node := self.fleet.nodes.get(worker.node or b"")) is not None and node.last_heard < late,
            )
            for worker in self.fleet.ready(key)
            if not worker.is_cut
        ]

    def _assign(self, queue: VersionQueue, record: VersionRecord, worker: Worker, now: float) -> None:
        jobs = queue.take(record.batch_size)
        assert worker.peer is not None, worker
        lease = Lease(self._next_lease, queue.key, worker.worker_id, jobs, jobs[0].is_describe)
        self._next_lease += 1
        stats = self.stats.versions[queue.key]
        items: list[m.AssignItem] = []
        frames: list[Frame] = []
        for job in jobs:
            job.move(JobState.RUNNING)
            job.attempt += 1
            self._queued_bytes -= job.size
            stats.queue_seconds.observe(now - job.arrived_at)
            items.append(m.AssignItem(job.attempt, job.meta, len(job.frames)))
            frames.extend(job.frames)
        stats.batch_jobs.observe(len(jobs))
        if not lease.is_describe:
            queue.futile_waits = policy.learn_from_batch(
                queue.futile_waits, count=len(jobs), batch_size=record.batch_size
            )
        if not worker.leases:
            lease.began_at = now
        worker.leases.append(lease)
        worker.last_assigned_at = now
        self.leases[lease.number] = lease
        self._send(worker.peer, m.Assign(lease.number, lease.is_describe, tuple(items)), tuple(frames))

    # Ends of jobs and leases

    def _end(self, job: Job, outcome: str) -> None:
        job.move(JobState.ENDED)
        self.stats.versions[job.key].outcomes[outcome] += 1
        del self.gateways[job.gateway].jobs[job.number]

    def _refuse(self, job: Job, error: errors.RelayError) -> None:
        self.gateways[job.gateway].refused.append(
            m.RefusedItem(job.number, error.name, error.message, error.details)
        )
        self._end(job, error.name)

    def _drop_lease(self, worker: Worker, lease: Lease, now: float) -> None:
        """Take a lease off its worker; the next one's time begins."""
        worker.leases.remove(lease)
        del self.leases[lease.number]
        self._begin_next(worker, now)

    def _begin_next(self, worker: Worker, now: float) -> None:
        if worker.leases and worker.leases[0].began_at is None:
            worker.leases[0].began_at = now

    def _take_back(
        self,
        worker: Worker,
        leases: Sequence[Lease],
        *,
        reason: str,
        is_lost: bool = False,
        out_of_memory: bool = False,
    ) -> None:
        """Return the jobs of some of a worker's leases to the head of their queue.

        With `is_lost` the worker died: the jobs of the batch it was running have used up a try, and one
        that has used up all is answered, so that it can't bring down worker after worker.
        """
        back: list[Job] = []
        for lease in tuple(leases):
            worker.leases.remove(lease)
            del self.leases[lease.number]
            for job in lease.jobs:
                if job.state is not JobState.RUNNING:
                    continue
                if not (is_lost and lease.began_at is not None):
                    job.attempt -= 1
                if job.attempt >= self.settings.attempt_limit:
                    cls = errors.OutOfResources if out_of_memory else errors.WorkerDied
                    self._refuse(job, cls("Worker died.", f"{reason} (in {job.attempt} tries)"))
                else:
                    back.append(job)
        if not back:
            return
        self.stats.retries += len(back)
        self._queued_bytes += sum(job.size for job in back)
        self.queue_of(worker.key).put_back(back)
        self._dirty.add(worker.key)
        if self.catalog.get(worker.key) is None:
            self._refuse_queue(worker.key, "it has been unregistered")

    def _refuse_queue(self, key: Key, why: str) -> None:
        queue = self.queues[key]
        for job in queue.take_all():
            self._queued_bytes -= job.size
            self._refuse(job, self._no_worker(job, why))

    # Workers' ends

    def _not_sent(self, peer: bytes, message: m.Message, now: float) -> None:
        """Undo what a message without a connection was to bring about.

        A worker is given nothing more until it is heard again, and a batch that did not leave goes
        elsewhere. What it was running is not touched: it may come back with it, and if it died, its
        node says so. A start that did not leave is nobody's failure.
        """
        if worker := self._workers.get(peer):
            worker.is_cut = True
            if isinstance(message, m.Assign) and (lease := self.leases.get(message.lease)):
                self._take_back(worker, [lease], reason="it is cut off")
                self._begin_next(worker, now)
        elif isinstance(message, m.StartWorker) and (lost := self.fleet.workers.get(message.worker_id)):
            self._remove_worker(lost, now, "the order to start it found no node")

    def _fail_worker(self, worker: Worker, reason: str, now: float, *, out_of_memory: bool = False) -> None:
        """Count an end that nobody asked for, and give its jobs another chance."""
        if worker.state not in (WorkerState.STARTING, WorkerState.READY):
            return
        self.stats.worker_failures[worker.key] += 1
        self.fleet.count_failure(worker, reason, out_of_memory=out_of_memory, now=now)
        self._take_back(worker, worker.leases, reason=reason, is_lost=True, out_of_memory=out_of_memory)

    def _remove_worker(self, worker: Worker, now: float, reason: str) -> None:
        self._take_back(worker, worker.leases, reason=reason, is_lost=True)
        self._workers.pop(worker.peer or b"", None)
        self.fleet.remove_worker(worker, now)
        self.management.is_dirty = True
        self._report(logging.INFO, "worker.gone", worker=worker.worker_id, model=worker.key[0],
                     version=worker.key[1], reason=reason)  # fmt: skip

    def _stop(self, worker: Worker, now: float, *, kill: bool, reason: str) -> None:
        worker.move(WorkerState.STOPPING, now)
        self._order_stop(worker, now, kill=kill, reason=reason)

    def _order_stop(self, worker: Worker, now: float, *, kill: bool, reason: str) -> None:
        worker.stop_sent_at = now
        if worker.node is not None:
            self._send(worker.node, m.StopWorker(worker.worker_id, kill, reason))
        elif worker.peer is not None:
            self._send(worker.peer, m.Leave(reason))

    # Time

    def _sweep(self, now: float) -> None:
        """Housekeeping: beats, silent peers, deadlines, restarts."""
        self._sweep_due = now + self.settings.beat_interval_s / SWEEPS_PER_BEAT
        if now >= self._beat_due:
            self._beat_due = now + self.settings.beat_interval_s
            for peer in (*self.gateways, *self.fleet.nodes, *self._workers):
                self._send(peer, m.Beat())
        if now - self._swept_at > self.settings.peer_timeout_s / 2:
            # It was the broker that stood still: what peers said meanwhile has not all been read yet.
            self._silence_counts_from = now
        self._swept_at = now
        if now - self._silence_counts_from >= self.settings.peer_timeout_s:
            self._drop_silent_peers(now - self.settings.peer_timeout_s, now)
        for worker in list(self.fleet.workers.values()):
            self._sweep_worker(worker, now)
        for key, queue in self.queues.items():
            if queue.jobs and queue.jobs[0].expires_at <= now:
                self._dirty.add(key)
        self._remember_nodes(now)
        self._reconcile(now)

    def _drop_silent_peers(self, silent_since: float, now: float) -> None:
        for gateway in [g for g in self.gateways.values() if g.last_heard < silent_since]:
            self._drop_gateway(gateway, "it has been silent")
        for node in [n for n in self.fleet.nodes.values() if n.last_heard < silent_since]:
            self._drop_node(node, now)

    def _sweep_worker(self, worker: Worker, now: float) -> None:
        record = self.catalog.get(worker.key)
        timeout_s = record.response_timeout_s if record else self.settings.default_response_timeout_s
        startup_s = record.startup_timeout_s if record else self.settings.default_startup_timeout_s
        match worker.state:
            case WorkerState.STARTING if now - worker.since > startup_s:
                reason = f"not ready within startup_timeout of {startup_s} s"
                self._fail_worker(worker, reason, now)
                self._stop(worker, now, kill=True, reason=reason)
            case WorkerState.READY | WorkerState.DRAINING if self._is_overdue(worker, timeout_s, now):
                self._give_up_stuck(worker, timeout_s, now)
            case WorkerState.READY if not worker.leases and self._is_silent(worker, now):
                self._fail_worker(worker, "it is idle but silent", now)
                self._stop(worker, now, kill=True, reason="it is idle but silent")
            case WorkerState.DRAINING if worker.drain_until is not None and now >= worker.drain_until:
                self._take_back(worker, worker.leases, reason="its time to finish was over", is_lost=True)
                self._stop(worker, now, kill=True, reason="its time to finish is over")
            case WorkerState.DRAINING if not worker.leases and not self._is_node_leaving(worker):
                self._stop(worker, now, kill=False, reason="it has nothing left to do")
            case WorkerState.STOPPING if now - worker.stop_sent_at > 2 * self.settings.stop_grace_s:
                self._take_back(worker, worker.leases, reason="it could not be stopped", is_lost=True)
                if worker.node is None:
                    self._remove_worker(worker, now, "its node never came back")
                else:
                    self._order_stop(worker, now, kill=True, reason="it has not stopped yet")

    def _is_silent(self, worker: Worker, now: float) -> bool:
        return worker.last_heard < now - 2 * self.settings.peer_timeout_s

    def _is_overdue(self, worker: Worker, timeout_s: int, now: float) -> bool:
        began_at = worker.leases[0].began_at if worker.leases else None
        return began_at is not None and now - began_at > timeout_s

    def _give_up_stuck(self, worker: Worker, timeout_s: int, now: float) -> None:
        """Answer the batch that ran into its deadline; it isn't tried again, its time is over."""
        lease = worker.leases[0]
        reason = f"no answer within response_timeout of {timeout_s} s"
        for job in lease.jobs:
            if job.state is JobState.RUNNING:
                self._refuse(job, errors.WorkerDied("Worker died.", reason))
        self._drop_lease(worker, lease, now)
        for waiting in worker.leases:
            waiting.began_at = None
        self._fail_worker(worker, reason, now)
        self._take_back(worker, worker.leases, reason=reason)
        self._stop(worker, now, kill=True, reason=reason)
        self._report(logging.WARNING, "worker.stuck", worker=worker.worker_id, model=worker.key[0],
                     version=worker.key[1], reason=reason)  # fmt: skip

    def _remember_nodes(self, now: float) -> None:
        names = frozenset(node.name for node in self.fleet.nodes.values() if not node.is_leaving)
        if names != self._remembered_nodes and not self.fleet.is_settling(now):
            self._remembered_nodes = names
            self.management.remember_nodes(tuple(sorted(names)))

    def _reconcile(self, now: float) -> None:
        """Close the gap between targets and workers, then tell callers who waited for that."""
        self.management.is_dirty = False
        wanted = {(record.model, record.version): record for record in self.catalog}
        orders = self.fleet.reconcile(wanted, now)
        for worker in orders.stop:
            self._retire(worker, now)
        for worker, record in orders.start:
            assert worker.node is not None, worker
            self._send(worker.node, self._start_order(worker, record))
        for key in [key for key in self.queues if key not in wanted]:
            self._refuse_queue(key, "it has been unregistered")
            if not any(lease.key == key for lease in self.leases.values()):
                del self.queues[key]
                self.stats.forget(key)
        for key, queue in self.queues.items():
            if queue.jobs and key in wanted and wanted[key].min_workers == 0 and not self.fleet.live(key):
                self._refuse_queue(key, "it has been scaled to 0 workers")
        self.management.check_waiters(now)

    def _retire(self, worker: Worker, now: float) -> None:
        """Take a worker out of service: what it runs may end, within the patience that was asked for."""
        patience_s = self.management.patience_s(worker.key)
        if worker.state is WorkerState.STARTING or patience_s == 0:
            self._take_back(worker, worker.leases, reason="it was scaled away")
            self._stop(worker, now, kill=True, reason="it is not needed any more")
            return
        worker.move(WorkerState.DRAINING, now)
        worker.drain_until = None if patience_s < 0 else now + patience_s
        if not worker.leases:
            self._stop(worker, now, kill=False, reason="it is not needed any more")

    def _start_order(self, worker: Worker, record: VersionRecord) -> m.StartWorker:
        return m.StartWorker(
            worker.worker_id, record.model, record.version, record.archive, record.archive_bytes,
            record.handler or self.settings.default_service_handler, worker.device, worker.gpu_id,
            record.batch_size, self.settings.service_envelope, self.settings.decode_input_request,
            self.settings.limit_max_image_pixels, self.settings.max_response_size, record.url,
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

    def _flush(self, gateway: Gateway) -> None:
        """Send a gateway the answers gathered so far."""
        if gateway.answered:
            self._send(gateway.peer, m.Answered(tuple(gateway.answered)), gateway.frames)
            gateway.answered, gateway.frames = [], []
        if gateway.refused:
            self._send(gateway.peer, m.Refused(tuple(gateway.refused)))
            gateway.refused = []


_WITH_FRAMES = (m.Submit, m.Completed)
_FROM_GATEWAY: dict[type[m.Message], Callable[..., None]] = {
    m.Submit: BrokerCore._on_submit,
    m.Cancel: BrokerCore._on_cancel,
    m.GatewayBeat: BrokerCore._on_gateway_beat,
    m.Bye: BrokerCore._on_gateway_bye,
    **dict.fromkeys(get_args(m.Ask), BrokerCore._on_ask),
}
_FROM_WORKER: dict[type[m.Message], Callable[..., None]] = {
    m.Completed: BrokerCore._on_completed,
    m.WorkerBeat: BrokerCore._on_worker_beat,
    m.Bye: BrokerCore._on_worker_bye,
}
_FROM_NODE: dict[type[m.Message], Callable[..., None]] = {
    m.NodeBeat: BrokerCore._on_node_beat,
    m.WorkerProgressed: BrokerCore._on_progress,
    m.WorkerExited: BrokerCore._on_exited,
    m.FetchArchive: BrokerCore._on_fetch,
    m.Bye: BrokerCore._on_node_bye,
}
