"""Jobs from their arrival to their end: admission, queues, leases, answers. Pure.

`machine` tells of what peers said and of workers' lives; here it is decided which job goes to which worker,
and everybody who waits is answered. Modes of batching differ in `_dispatch` alone:

- in order: batches, at most two on a worker, the second sent ahead;
- side by side (`continuousBatching`, `asyncCommunication`): leases of one job each, as many on a worker
  as `batching.leases_beside` says;
- by sequence (`sequenceBatching`): one job of each sequence in a batch, see `sequences`.

What may have ended a worker goes its own way, see `isolation`.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from math import inf

from torchrelay.broker.core.answers import Answers, Gateway, Send, late, no_worker, part_lost
from torchrelay.broker.core.states import JobState
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.fleet.fleet import Fleet, Worker
from torchrelay.broker.jobs import batching
from torchrelay.broker.jobs.deadlines import Deadlines
from torchrelay.broker.jobs.isolation import Isolation
from torchrelay.broker.jobs.queues import Job, Lease, PlainQueue, VersionQueue, by_version
from torchrelay.broker.jobs.sequences import SequenceQueue
from torchrelay.broker.models.catalog import Catalog, Key
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared import errors
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame, WireError

#: Leases of one epoch lie apart from those of the next, whose workers may still speak of them.
EPOCH_SHIFT = 32


class Jobs:
    """Every job that has not ended, and the leases under which some of them run."""

    def __init__(
        self,
        catalog: Catalog,
        fleet: Fleet,
        stats: Stats,
        settings: BrokerSettings,
        *,
        epoch: int,
        now: float,
        real_time: Callable[[float], float],
        answers: Answers,
        send: Send,
        report: Callable[..., None],
        new_sequence_id: Callable[[], str],
    ) -> None:
        self._catalog = catalog
        self._fleet = fleet
        self._stats = stats
        self._settings = settings
        self._send = send
        self._new_sequence_id = new_sequence_id
        #: Turns a time of the core into real time, which is what clients wait in.
        self._real_time = real_time
        #: What ran on workers before a restart comes back as waiting until then: it had been accepted.
        self._comes_back_until = now + settings.settle_s if epoch > 1 else now
        self._answers = answers
        self._isolation = Isolation(fleet, settings, answers=answers, report=report, unqueue=self._unqueue)
        self.queues: dict[Key, VersionQueue] = {}
        self.leases: dict[int, Lease] = {}
        #: Bytes waiting in all queues.
        self.queued_bytes = 0
        self._next_lease = (epoch << EPOCH_SHIFT) + 1
        #: Versions whose queue or workers changed in this turn; no set, whose order would differ by process.
        self._dirty: dict[Key, None] = {}
        #: When a batch that waits for company has waited enough.
        self._batch_due: dict[Key, float] = {}
        #: Of jobs whose clients wait for so long only, by real time.
        self.deadlines = Deadlines()

    def end_turn(self, now: float, real_now: float) -> None:
        """End what is late, and hand out what can go."""
        for peer, number in self.deadlines.due(real_now):
            self._look_at(peer, number, real_now)
        if self._batch_due:
            self._dirty.update((key, None) for key, due in self._batch_due.items() if due <= now)
        while self._dirty:
            self._dispatch(self._dirty.popitem()[0], now)

    def next_due(self) -> float:
        """Return when there is something to do though nothing happens."""
        return min(self._batch_due.values(), default=inf)

    def touch(self, key: Key) -> None:
        """Have a version looked at in this turn: it may have got a worker."""
        self._dirty[key] = None

    # Admission

    def admit(
        self, gateway: Gateway, item: m.SubmitItem, frames: tuple[Frame, ...], now: float, *, was_held: bool
    ) -> errors.RelayError | None:
        """Take a job in, or refuse it at once; of an unknown model, return the error instead."""
        try:
            record = self._catalog.resolve(item.model, item.version)
        except errors.RelayError as error:
            return error
        key = (record.model, record.version)
        job = Job(
            gateway.peer, item.job, key, item.version is not None, item.is_describe, item.meta, frames,
            len(item.meta) + sum(map(len, frames)), now, now + record.response_timeout_s, was_held,
        )  # fmt: skip
        if record.config.sequence_batching and not item.is_describe:
            job.starts_sequence = not item.sequence
            job.sequence = item.sequence or self._new_sequence_id()
        stats = self._stats.versions[key]
        stats.submitted += 1
        if not job.is_describe:
            (stats.named if job.names_version else stats.unnamed).requests += 1
            if not stats.is_touched:
                self._stats.touch(stats)
        gateway.jobs[job.number] = job
        queue = self._queue_for(record)
        if queue.suspicions.known and self._isolation.refuses(queue, record, job, now):
            return None
        if why_not := self._why_not_admit(record, queue, job, now):
            self._answers.refuse(job, no_worker(job, why_not))
            return None
        if record.config.client_timeout_ms:
            job.given_up_at = self._real_time(now) + record.config.client_timeout_ms / 1000
            self.deadlines.add(job.given_up_at, job)
        if queue.futile_waits:
            is_running = any(worker.leases for worker in self._fleet.of_version(key))
            queue.futile_waits = batching.learn_from_arrival(queue.futile_waits, is_running=is_running)
        queue.push(job)
        self.queued_bytes += job.size
        self._dirty[key] = None
        return None

    def _queue_for(self, record: VersionRecord) -> VersionQueue:
        """Return a version's queue, making it at first use."""
        key = (record.model, record.version)
        old = self.queues.get(key)
        if old is not None and old.config is record.config:
            return old
        queue: VersionQueue = (
            SequenceQueue(record, overlaps=batching.leases_beside(record) > 0)
            if record.config.sequence_batching
            else PlainQueue(record)
        )
        if old is not None:  # the version was registered anew, with another archive
            for job in sorted(old.take_all(), key=lambda job: job.arrived_at):
                job.suspicion = None
                queue.push(job)
        self.queues[key] = queue
        return queue

    def _why_not_admit(self, record: VersionRecord, queue: VersionQueue, job: Job, now: float) -> str:
        if record.min_workers == 0 and not self._fleet.live(queue.key):
            return "it has been scaled to 0 workers"
        if self._fleet.has_given_up(queue.key) and not self._fleet.live(queue.key):
            return f"its workers failed too often: {self._fleet.condition(queue.key).last_error}"
        if self.queued_bytes and self.queued_bytes + job.size > self._settings.queue_limit_bytes:
            return f"the queues hold {self.queued_bytes} bytes, the limit of queue_limit_bytes"
        comes_back = job.was_held or now < self._comes_back_until
        waiting = len(queue.row)
        if not comes_back and record.config.use_job_ticket and self._places(record, queue) <= waiting:
            return "no worker is idle, and it takes requests only for one that is (useJobTicket)"
        if isinstance(queue, SequenceQueue) and job.sequence:
            return queue.why_not(job, record, is_bounded=not comes_back)
        if comes_back:
            return ""
        limit = record.config.job_queue_size or self._settings.job_queue_size
        if waiting >= limit:
            self._dispatch(queue.key, now)  # a burst fills the workers first, then the queue
        if len(queue.row) >= limit and queue.bounded >= limit:
            return f"its queue holds {len(queue)} jobs, the limit of job_queue_size"
        return ""

    def _places(self, record: VersionRecord, queue: VersionQueue) -> int:
        """Return how many jobs could go to a worker at once."""
        workers = self._fleet.ready(queue.key)
        return sum(w.room(record) for w in workers if not w.is_cut and w.worker_id != queue.kept_worker)

    # Dispatch

    def _dispatch(self, key: Key, now: float) -> None:
        """Give a version's waiting jobs to its workers, as far as `batching` lets them go."""
        self._batch_due.pop(key, None)
        record = self._catalog.get(key)
        if record is None or key not in self.queues:
            return
        queue = self._queue_for(record)
        if not (queue.row or queue.suspects or queue.kept_worker):
            return
        for job in queue.take_expired(now):
            self._refuse_expired(job, record, now)
        if (queue.suspects or queue.kept_worker) and isinstance(queue, PlainQueue):
            again_at = self._isolation.hand_out(queue, record, now, self._assign)
            if again_at < inf:
                self._batch_due[key] = again_at
        if isinstance(queue, SequenceQueue):
            self._hand_out_sequences(queue, record, now)
        elif isinstance(queue, PlainQueue):
            if beside := batching.leases_beside(record):
                self._hand_out_singly(queue, record, beside, now)
            else:
                self._hand_out_batches(queue, record, now)

    def _hand_out_batches(self, queue: PlainQueue, record: VersionRecord, now: float) -> None:
        while queue.row:
            worker = self._fleet.best_worker(queue, now - 2 * self._settings.beat_interval_s)
            if worker is None:
                return
            if worker.leases and not batching.may_send_ahead(
                leases=len(worker.leases), depth=len(queue.row), batch_size=record.batch_size,
                service_s=queue.service_s,
            ):  # fmt: skip
                return
            if self._waits_for_company(queue, queue.row, record, now):
                return
            count = 1 if queue.suspicions.known and not worker.has_answered else record.batch_size
            self._assign(queue, queue.take(count), record, worker, now)

    def _hand_out_singly(self, queue: PlainQueue, record: VersionRecord, beside: int, now: float) -> None:
        """Give each job a lease of its own, beside others; the worker makes batches of them."""
        while queue.row:
            worker = self._fleet.best_worker(queue, now - 2 * self._settings.beat_interval_s)
            if worker is None or len(worker.leases) >= beside:
                return
            self._assign(queue, queue.take(1), record, worker, now)

    def _hand_out_sequences(self, queue: SequenceQueue, record: VersionRecord, now: float) -> None:
        """Give each worker of the jobs that may run there; a new sequence goes where the fewest are.

        Among equals workers take turns, as in TorchServe: a handler may remember a sequence that is over.
        """
        beside = batching.leases_beside(record)
        workers = [worker for worker in self._fleet.ready(queue.key) if not worker.is_cut]
        room = {worker: worker.room(record) for worker in workers}
        while queue.has_describe and (free := [worker for worker in workers if room[worker] > 0]):
            worker = min(free, key=lambda w: (len(w.leases), w.worker_id))
            room[worker] = room[worker] - 1 if beside else 0
            self._assign(queue, queue.take(worker.worker_id, 1), record, worker, now)
        while queue.has_homeless:
            free = [worker for worker in workers if room[worker] > len(queue.ready(worker.worker_id))]
            if not free:
                break
            home = min(free, key=lambda w: (queue.load(w.worker_id), w.last_assigned_at, w.worker_id))
            queue.adopt(home.worker_id)
        for worker in workers:
            while room[worker] > 0 and (ready := queue.ready(worker.worker_id)):
                if not beside and self._waits_for_company(queue, ready, record, now):
                    break
                jobs = queue.take(worker.worker_id, 1 if beside else record.batch_size)
                room[worker] = room[worker] - 1 if beside else 0
                self._assign(queue, jobs, record, worker, now)

    def _waits_for_company(
        self, queue: VersionQueue, jobs: Sequence[Job], record: VersionRecord, now: float
    ) -> bool:
        """Tell whether a batch of these jobs should wait for more, and have it looked at when it has."""
        if jobs[0].is_describe:
            return False
        wait_s = batching.batch_wait(
            depth=len(jobs), batch_size=record.batch_size,
            max_batch_delay_s=record.max_batch_delay_ms / 1000,
            head_age_s=now - jobs[0].arrived_at, futile_waits=queue.futile_waits,
        )  # fmt: skip
        if wait_s <= 0:
            return False
        self._batch_due[queue.key] = min(now + wait_s, self._batch_due.get(queue.key, now + wait_s))
        return True

    def _assign(
        self, queue: VersionQueue, jobs: tuple[Job, ...], record: VersionRecord, worker: Worker, now: float
    ) -> None:
        assert worker.peer is not None, worker
        number = self._next_lease
        self._next_lease += 1
        lease = Lease(number, queue, worker.worker_id, jobs, jobs[0].is_describe, now, self._fleet.beat)
        lease.is_in_order = batching.leases_beside(record) == 0
        stats = self._stats.versions[queue.key]
        items: list[m.AssignItem] = []
        frames: list[Frame] = []
        for job in jobs:
            job.move(JobState.RUNNING)
            job.attempt += 1
            job.lease = number
            self.queued_bytes -= job.size
            items.append(
                m.AssignItem(job.attempt, job.meta, len(job.frames), job.sequence, job.starts_sequence)
            )
            frames.extend(job.frames)
        stats.queue_seconds.observe_all([now - job.arrived_at for job in jobs])
        stats.batch_jobs.observe(len(jobs))
        if not lease.is_describe and lease.is_in_order:
            queue.futile_waits = batching.learn_from_batch(
                queue.futile_waits, count=len(jobs), batch_size=record.batch_size
            )
        if not worker.leases or not lease.is_in_order:
            lease.begin(now)
        worker.leases.append(lease)
        worker.last_assigned_at = now
        self.leases[number] = lease
        self._send(worker.peer, m.Assign(number, lease.is_describe, tuple(items)), frames)

    # Answers

    def streamed(
        self, worker: Worker, message: m.Streamed, parts: Sequence[tuple[Frame, ...]], now: float
    ) -> None:
        """Pass parts of answers on. Raises WireError for what the worker can't mean."""
        lease = self._lease_of(worker, message.lease)
        if lease is None:
            return
        if not all(0 <= item.index < len(lease.jobs) for item in message.items):
            raise WireError(f"a part for a job outside of a batch of {len(lease.jobs)}")
        if message.number < lease.streamed:
            self._stats.stale_results += 1  # it came twice
            return
        self._skip_to(worker, lease, now)
        lease.heard_at = now
        if message.number > lease.streamed:
            self._end_running(lease.jobs, part_lost())
        lease.streamed = message.number + 1
        queue = lease.queue
        for item, frames in zip(message.items, parts, strict=True):
            job = lease.jobs[item.index]
            if job.state is not JobState.RUNNING:
                continue
            self._answers.pass_on(job, item.meta, frames, is_final=False)
            if job.parts == 1 and isinstance(queue, SequenceQueue):
                queue.streams(job)
                self._dirty[lease.queue.key] = None

    def completed(
        self, worker: Worker, done: m.Completed, parts: Sequence[tuple[Frame, ...]], now: float
    ) -> bool:
        """Answer the jobs of a batch; False if its lease has ended.

        Raises WireError for what the worker can't mean.
        """
        lease = self._lease_of(worker, done.lease)
        if lease is None:
            return False
        if len(done.items) != len(lease.jobs):
            raise WireError(f"{len(done.items)} results for a batch of {len(lease.jobs)}")
        queue = lease.queue
        began_at = lease.began_at
        if lease.is_in_order:
            self._skip_to(worker, lease, now)
            if began_at is not None:
                queue.service_s = batching.smooth_service(queue.service_s, now - began_at)
        is_whole = done.streamed == lease.streamed
        answered: list[tuple[Job, int]] = []
        for job, item, frames in zip(lease.jobs, done.items, parts, strict=True):
            if job.state is not JobState.RUNNING:
                continue
            if not is_whole:
                self._answers.refuse(job, part_lost())
                continue
            self._answers.pass_on(job, item.meta, frames, is_final=True, has_failed=item.status >= 500)
            answered.append((job, item.status))
        self._stats.batch_done(
            lease, answered, done.handler_us / 1e6, now if began_at is None else began_at, now
        )
        if queue.suspicions.known or queue.kept_worker:
            self._isolation.answered(lease)
        self._drop_lease(worker, lease, now)
        self._begin_next(worker, now)
        if isinstance(queue, SequenceQueue):
            ended = [name for item in done.items for name in item.ends_sequences]
            self._refuse_all(queue.close(ended, worker.worker_id), "its sequence has been ended")
        self._dirty[queue.key] = None
        return True

    def _lease_of(self, worker: Worker, number: int) -> Lease | None:
        """Return a lease that the worker speaks of; None, and counted, if it has ended.

        Raises WireError if it is another worker's.
        """
        lease = self.leases.get(number)
        if lease is None:
            self._stats.stale_results += 1
            return None
        if lease.worker_id != worker.worker_id:
            raise WireError(f"lease {number} is another worker's")
        return lease

    def _skip_to(self, worker: Worker, lease: Lease, now: float) -> None:
        """Take note that a worker is at this lease: what should have come before never reached it."""
        if lease.is_in_order and worker.leases[0] is not lease:
            skipped = worker.leases[: worker.leases.index(lease)]
            self.take_back(worker, skipped, now, reason="the batch was lost on its way")
            self._begin_next(worker, now)

    # Ends of jobs

    def cancel(self, jobs: Iterable[Job]) -> None:
        """End jobs nobody waits for: at once where they wait; where they run, their worker is told."""
        jobs = list(jobs)
        for waiting in by_version(job for job in jobs if job.state is JobState.QUEUED):
            self._unqueue(*waiting)
            for job in waiting:
                self._answers.end(job, "cancelled")
        self._end_running(jobs, None)

    def refuse_queue(self, key: Key, why: str) -> None:
        """Answer everything that waits for a version."""
        self._refuse_all(self.queues[key].take_all(), why)

    def drop_queue(self, key: Key) -> None:
        """Forget the queue of a version that is gone, and its figures once nothing of it runs."""
        self.refuse_queue(key, "it has been unregistered")
        if not any(lease.queue.key == key for lease in self.leases.values()):
            del self.queues[key]
            self._stats.forget(key)

    def expire(self, now: float) -> None:
        """Have those versions looked at whose jobs have waited, or whose sequences idled, for too long."""
        for key, queue in self.queues.items():
            if (oldest := queue.oldest) is not None and oldest.expires_at <= now:
                self._dirty[key] = None
            if isinstance(queue, SequenceQueue):
                queue.forget_idle(now)
            queue.suspicions.forget_old(now)

    def _look_at(self, peer: bytes, number: int, real_now: float) -> None:
        """End a job whose own limit has come, if it has not ended long ago."""
        gateway = self._answers.gateways.get(peer)
        job = gateway.jobs.get(number) if gateway else None
        if job is None or job.given_up_at > real_now:
            return
        error = late(job, job.given_up_at - self._real_time(job.arrived_at))
        if job.state is JobState.QUEUED:
            self._unqueue(job)
            self._answers.refuse(job, error)
        else:
            self._end_running((job,), error)

    def _unqueue(self, *jobs: Job) -> None:
        """Take jobs of one version out of its queue."""
        key = jobs[0].key
        self.queues[key].remove(*jobs)
        self.queued_bytes -= sum(job.size for job in jobs)
        if any(job.suspicion for job in jobs):
            self._dirty[key] = None  # a worker may be kept for them

    def _end_running(self, jobs: Iterable[Job], error: errors.RelayError | None) -> None:
        """End jobs that run, with an error or because nobody waits, and tell their workers."""
        indexes: dict[int, list[int]] = {}
        for job in jobs:
            if job.state is not JobState.RUNNING:
                continue
            lease = self.leases[job.lease]
            indexes.setdefault(lease.number, []).append(lease.jobs.index(job))
            if error is None:
                self._answers.end(job, "cancelled")
            else:
                self._answers.refuse(job, error)
        for number, of_lease in indexes.items():
            worker = self._fleet.workers[self.leases[number].worker_id]
            assert worker.peer is not None, worker
            self._send(worker.peer, m.CancelJobs(number, tuple(of_lease)), ())

    def _refuse_all(self, jobs: Iterable[Job], why: str) -> None:
        """Refuse jobs that have just left their queue."""
        for job in jobs:
            self.queued_bytes -= job.size
            self._answers.refuse(job, no_worker(job, why))

    def _refuse_expired(self, job: Job, record: VersionRecord, now: float) -> None:
        waited = f"it waited {now - job.arrived_at:.0f} s in the queue; "
        self._refuse_all([job], waited + (self._fleet.explain(record, now) or "all busy"))

    # Ends of leases

    def overdue(self, worker: Worker, timeout_s: float, now: float) -> list[Lease]:
        """Return the leases of a worker of which nothing has been heard for too long.

        An asynchronous handler may take any time over a job, as in TorchServe, while its worker beats.
        """
        record = self._catalog.get(worker.key)
        is_async = record is not None and record.config.async_communication
        return [
            lease
            for lease in worker.leases
            if lease.began_at is not None
            and now - (max(lease.heard_at, worker.last_heard) if is_async else lease.heard_at) > timeout_s
        ]

    def give_up(self, worker: Worker, leases: Sequence[Lease], reason: str, now: float) -> None:
        """Answer the batches that ran into their deadline; they aren't tried again, their time is over."""
        for lease in leases:
            for job in lease.jobs:
                if job.state is JobState.RUNNING:
                    self._answers.refuse(job, errors.WorkerDied("Worker died.", reason))
            self._drop_lease(worker, lease, now)

    def leave_service(self, worker: Worker) -> None:
        """Take note that a worker gets no more jobs: its sequences end, whose state goes with it."""
        queue = self.queues.get(worker.key)
        if isinstance(queue, SequenceQueue):
            waiting = queue.lose_worker(worker.worker_id)
            self._refuse_all(waiting, "its sequence has ended with the worker that kept its state")
            self._dirty[worker.key] = None

    def blame(self, worker: Worker, gone: m.WorkerExited, now: float) -> bool:
        """Find out which job ended a worker, before its jobs are taken back; tell whether that is excused."""
        queue = self.queues.get(worker.key)
        self._dirty[worker.key] = None
        return queue is not None and self._isolation.blame(queue, worker, gone, now)

    def take_back_lost(self, worker: Worker, held: Collection[int], heard: int, now: float) -> None:
        """Take back what a worker doesn't hold, though it heard a later beat or was given it long ago."""
        late = now - self._settings.peer_timeout_s
        lost = [
            one
            for one in worker.leases
            if (one.beat < heard or one.has_crossed(late)) and one.number not in held
        ]
        if lost:
            self.take_back(worker, lost, now, reason="the batch or its result was lost", is_lost=True)
            self._begin_next(worker, now)
            self._dirty[worker.key] = None

    def take_back_unsent(self, worker: Worker, number: int, now: float) -> None:
        """Take back a lease whose message found no connection."""
        lease = self.leases.get(number)
        if lease is not None and lease.worker_id == worker.worker_id:
            lease.began_at = None
            self.take_back(worker, [lease], now, reason="it is cut off")
            self._begin_next(worker, now)

    def take_back(
        self,
        worker: Worker,
        leases: Sequence[Lease],
        now: float,
        *,
        reason: str,
        is_lost: bool = False,
        out_of_memory: bool = False,
    ) -> None:
        """Return the jobs of some of a worker's leases to the head of their queue.

        With `is_lost` the worker died: the jobs of a batch it was running have used up a try, and one
        that has used up all is answered, so that it can't bring down worker after worker. So is one that
        has streamed, and one of a sequence that may have been run: a second run would not be the same.
        """
        broken: list[str] = []
        for lease in tuple(leases):
            back: list[Job] = []
            for job in lease.jobs:
                if job.state is not JobState.RUNNING:
                    continue
                if not (is_lost and lease.began_at is not None):
                    job.attempt -= 1
                if self._may_run_again(job, lease):
                    back.append(job)
                else:
                    cls = errors.OutOfResources if out_of_memory else errors.WorkerDied
                    self._answers.refuse(job, cls("Worker died.", f"{reason} (in {job.attempt} tries)"))
                    broken.append(job.sequence)
            self._drop_lease(worker, lease, now)
            self._put_back(lease.queue, back)
        queue = self.queues.get(worker.key)
        if broken and isinstance(queue, SequenceQueue):
            self._refuse_all(queue.close(broken, worker.worker_id), "its sequence has lost a request")

    def _may_run_again(self, job: Job, lease: Lease) -> bool:
        if job.parts:
            return False
        if job.sequence and isinstance(lease.queue, SequenceQueue):
            return lease.began_at is None and not lease.queue.is_closed(job.sequence)
        return job.attempt < self._settings.attempt_limit

    def _put_back(self, queue: VersionQueue, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        for job in jobs:
            job.move(JobState.QUEUED)
            job.lease = 0
            self.queued_bytes += job.size
        if self._catalog.get(queue.key) is None or self.queues.get(queue.key) is not queue:
            self._refuse_all(jobs, "it has been unregistered")
            return
        self._stats.retries += len(jobs)
        queue.put_back(jobs)
        self._dirty[queue.key] = None

    def _drop_lease(self, worker: Worker, lease: Lease, now: float) -> None:
        worker.leases.remove(lease)
        del self.leases[lease.number]
        if isinstance(lease.queue, SequenceQueue):
            lease.queue.over(lease.jobs, now)

    def _begin_next(self, worker: Worker, now: float) -> None:
        """Let the first of the leases that run in order begin, if the one before it has ended."""
        if worker.leases and worker.leases[0].began_at is None:
            worker.leases[0].begin(now)
