"""Batches on workers, each under a lease: handed out, answered, and taken back. Pure."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

from torchrelay.broker.core.answers import Send, part_lost
from torchrelay.broker.core.states import RUNNING
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.jobs import batching
from torchrelay.broker.jobs.isolation import Isolation
from torchrelay.broker.jobs.queues import Job, Lease, VersionQueue
from torchrelay.broker.jobs.recovery import Recovery
from torchrelay.broker.jobs.waiting_jobs import JobsPart
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared import errors
from torchrelay.shared.recent_mean import recent_mean
from torchrelay.shared.recent_peak import recent_peak
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame, WireError, go_by_socket

#: What is said of a batch that its worker doesn't have.
LOST = "the batch was lost on its way"
#: Jobs whose batches go in one message: of what they have inline no more than a head may hold.
ASSIGN_LIMIT_JOBS = 64


@dataclass(slots=True, eq=False)
class Leases(JobsPart):
    """The leases that have not ended; only the holder's answer to one counts."""

    isolation: Isolation
    send: Send
    #: Turns a time of the core into real time, which is what clients wait in.
    real_time: Callable[[float], float]
    #: The number of the next one.
    next: int
    recovery: Recovery
    by_number: dict[int, Lease] = field(default_factory=dict)
    #: What is to be sent at the end of the turn.
    _assigned: dict[FleetWorker, list[Lease]] = field(default_factory=dict)
    #: How long handlers take over a batch, one with another; before the first, long.
    handler_s: float = 1.0

    def assign(
        self,
        queue: VersionQueue,
        jobs: tuple[Job, ...],
        record: VersionRecord,
        worker: FleetWorker,
        now: float,
    ) -> None:
        """Give jobs that have left their queue to a worker, as one batch."""
        assert worker.peer is not None, worker
        number = self.next
        self.next += 1
        lease = Lease(number, queue, worker.worker_id, jobs, jobs[0].is_describe, now, self.fleet.beat)
        lease.is_in_order = queue.runs_in_order
        stats = self.stats.versions[queue.key]
        size = 0
        for job in jobs:
            job.move(RUNNING)
            job.attempt += 1
            job.lease = number
            size += job.size
        self.waiting.queued_bytes -= size
        stats.queue_seconds.observe_all([now - job.arrived_at for job in jobs])
        stats.batch_jobs.observe(len(jobs))
        if record.batch_size > 1 and lease.is_in_order and not lease.is_describe:
            queue.company.leaves(
                count=len(jobs),
                batch_size=record.batch_size,
                max_delay_s=record.max_batch_delay_ms / 1000,
                head_at=jobs[0].arrived_at,
                service_s=queue.service_s,
                now=now,
            )
        if not worker.leases or not lease.is_in_order:
            lease.begin(now)
        queue.leases += 1
        worker.leases.append(lease)
        worker.touched[worker] = None
        worker.last_assigned_at = now
        self.by_number[number] = lease
        self._assigned.setdefault(worker, []).append(lease)

    def send_assigned(self, now: float) -> None:
        """Send workers what they were assigned in this turn, each as few messages as it may be."""
        if not self._assigned:
            return
        assigned, self._assigned = self._assigned, {}
        for worker, leases in assigned.items():
            together: list[Lease] = []
            for lease in leases:
                if lease.number not in self.by_number:
                    continue  # taken back since, after a turn that failed
                if together and not (worker.takes_ahead and _go_together(lease, together)):
                    self._send_assign(worker, together, now)
                    together = []
                together.append(lease)
            if together:
                self._send_assign(worker, together, now)

    def _send_assign(self, worker: FleetWorker, leases: Sequence[Lease], now: float) -> None:
        assert worker.peer is not None, worker
        items: list[m.AssignItem] = []
        frames: list[Frame] = []
        for lease in leases:
            for job in lease.jobs:
                left_ms = self._left_ms(job, now) if job.given_up_at < inf else 0
                items.append(
                    m.AssignItem(
                        job.meta,
                        len(job.frames),
                        job.sequence,
                        job.starts_sequence,
                        left_ms,
                        job.gateway,
                        job.number,
                    )
                )
                if job.frames:
                    frames.extend(job.frames)
        first, *others = leases
        ahead = tuple([m.AheadItem(lease.number, len(lease.jobs)) for lease in others])
        self.send(worker.peer, m.Assign(first.number, first.is_describe, tuple(items), ahead), frames)

    def _left_ms(self, job: Job, now: float) -> int:
        """Return how long a job's client still waits: not 0, which would mean for ever."""
        return max(1, round(1000 * (job.given_up_at - self.real_time(now))))

    # Answers

    def streamed(
        self, worker: FleetWorker, message: m.Streamed, parts: Sequence[tuple[Frame, ...]], now: float
    ) -> None:
        """Pass parts of answers on. Raises WireError for what the worker can't mean."""
        lease = self._lease_of(worker, message.lease)
        if lease is None:
            self.recovery.streamed(message, parts)
            return
        if not all(0 <= item.index < len(lease.jobs) for item in message.items):
            raise WireError(f"a part for a job outside of a batch of {len(lease.jobs)}")
        if message.number < lease.streamed:
            self.stats.stale_results += 1  # it came twice
            return
        self._skip_to(worker, lease, now)
        lease.heard_at = now
        if message.number > lease.streamed:
            self.end_running(lease.jobs, lambda _: part_lost())
        lease.streamed = message.number + 1
        queue = lease.queue
        for item, frames in zip(message.items, parts, strict=True):
            job = lease.jobs[item.index]
            if job.state is not RUNNING:
                continue
            self.answers.pass_on(job, item.meta, frames, is_final=False)
            if job.parts == 1 and queue.streams(job):
                self.waiting.changed[queue.key] = None

    def completed(
        self, worker: FleetWorker, done: m.Completed, parts: Sequence[tuple[Frame, ...]], now: float
    ) -> bool:
        """Answer the jobs of a batch; False if its lease has ended.

        Raises WireError for what the worker can't mean.
        """
        lease = self._lease_of(worker, done.lease)
        if lease is None:
            self.recovery.completed(done, parts, now)
            return False
        if len(done.items) != len(lease.jobs):
            raise WireError(f"{len(done.items)} results for a batch of {len(lease.jobs)}")
        queue = lease.queue
        began_at = lease.began_at
        if lease.is_in_order and worker.leases[0] is not lease:
            self._skip_to(worker, lease, now)
        handler_s = done.handler_us / 1e6
        is_whole = done.streamed == lease.streamed
        answered: list[tuple[Job, int]] = []
        pass_on = self.answers.pass_on
        for job, item, frames in zip(lease.jobs, done.items, parts, strict=True):
            if job.state is not RUNNING:
                continue
            if not is_whole:
                self.answers.refuse(job, part_lost())
                continue
            status = item.status
            pass_on(job, item.meta, frames, is_final=True, has_failed=status >= 500)
            answered.append((job, status))
        if began_at is not None and not lease.is_describe:
            queue.service_s = batching.smooth_service(
                queue.service_s, now - began_at, was_whole=len(answered) == len(lease.jobs)
            )
            queue.slowest_s = recent_peak(queue.slowest_s, handler_s)
            self.handler_s = recent_mean(self.handler_s, handler_s)
            queue.company.answered(lease.assigned_at, now)
        self.stats.batch_done(lease, answered, handler_s, now if began_at is None else began_at, now)
        if queue.suspicions.known or queue.kept_worker:
            self.isolation.answered(lease)
        self._drop_lease(worker, lease, now)
        if worker.leases:
            self._begin_next(worker, now)
        if lease.jobs[0].sequence:
            ended = [name for item in done.items for name in item.ends_sequences]
            self.waiting.refuse(queue.close(ended, worker.worker_id), "its sequence has been ended")
        self._see_room(queue)
        return True

    def _lease_of(self, worker: FleetWorker, number: int) -> Lease | None:
        """Return a lease that the worker speaks of; None, and counted, if it has ended.

        Raises WireError if it is another worker's.
        """
        lease = self.by_number.get(number)
        if lease is None:
            if number not in self.recovery.leases:
                self.stats.stale_results += 1
            return None
        if lease.worker_id != worker.worker_id:
            raise WireError(f"lease {number} is another worker's")
        return lease

    def _skip_to(self, worker: FleetWorker, lease: Lease, now: float) -> None:
        """Take note that a worker is at this lease: what should have come before never reached it."""
        if lease.is_in_order and worker.leases[0] is not lease:
            skipped = worker.leases[: worker.leases.index(lease)]
            self.take_back(worker, skipped, now, reason=LOST, never_came=not worker.answers.has_skipped)
            self._begin_next(worker, now)

    def end_running(self, jobs: Iterable[Job], error_of: Callable[[Job], errors.RelayError] | None) -> None:
        """End those of the jobs that run, with an error or because nobody waits, and tell their workers."""
        indexes: dict[int, list[int]] = {}
        for job in jobs:
            if job.state is not RUNNING:
                continue
            lease = self.by_number[job.lease]
            indexes.setdefault(lease.number, []).append(lease.jobs.index(job))
            if error_of is None:
                self.answers.end(job, "cancelled")
            else:
                self.answers.refuse(job, error_of(job))
        for number, of_lease in indexes.items():
            worker = self.fleet.workers[self.by_number[number].worker_id]
            assert worker.peer is not None, worker
            self.send(worker.peer, m.CancelJobs(number, tuple(of_lease)), ())

    # Ends without an answer

    def overdue(self, worker: FleetWorker, timeout_s: float, now: float) -> list[Lease]:
        """Return the leases of a worker of which nothing has been heard for too long.

        An asynchronous handler may take any time over a job, as in TorchServe, while its worker beats; but
        once nobody waits for the job, which cancels it, it has to end in that time.
        """
        record = self.catalog.get(worker.key)
        if record is None or not record.config.async_communication:
            return [
                lease
                for lease in worker.leases
                if lease.began_at is not None and now - lease.heard_at > timeout_s
            ]
        if now - worker.last_heard > timeout_s:
            return [lease for lease in worker.leases if now - lease.heard_at > timeout_s]
        return [lease for lease in worker.leases if lease.abandoned_s(now) > timeout_s]

    def give_up(self, worker: FleetWorker, leases: Sequence[Lease], reason: str, now: float) -> None:
        """Answer the batches that ran into their deadline; they aren't tried again, their time is over."""
        for lease in leases:
            for job in lease.jobs:
                if job.state is RUNNING:
                    self.answers.refuse(job, errors.WorkerDied("Worker died.", reason))
            self._drop_lease(worker, lease, now)

    def take_back_lost(self, worker: FleetWorker, held: Collection[int], heard: int, now: float) -> None:
        """Take back what a worker doesn't hold, though it heard a later beat or was given it long ago."""
        late = now - self.settings.peer_timeout_s
        lost = [
            one
            for one in worker.leases
            if (one.beat < heard or one.has_crossed(late)) and one.number not in held
        ]
        if lost:
            self.take_back(worker, lost, now, reason=LOST, never_came=not worker.answers.has_skipped)
            self._begin_next(worker, now)
            self.waiting.changed[worker.key] = None

    def take_back_unsent(self, worker: FleetWorker, numbers: Collection[int], now: float) -> None:
        """Take back leases whose message found no connection."""
        unsent = [lease for lease in worker.leases if lease.number in numbers]
        self.take_back(worker, unsent, now, reason="it is cut off", never_came=True)
        self._begin_next(worker, now)

    def take_back(
        self,
        worker: FleetWorker,
        leases: Sequence[Lease],
        now: float,
        *,
        reason: str,
        never_came: bool = False,
        out_of_memory: bool = False,
    ) -> None:
        """Return the jobs of some of a worker's leases to the head of their queue.

        Unless it is known that they `never_came`, they may have begun, and have used up a try: one sent ahead
        may have begun unheard. A job that has used up all is answered, so that it is not run more often than
        is said, and can't bring down worker after worker. So is one that has streamed, and one of a sequence
        that may have been run: a second run would not be the same.
        """
        broken: list[str] = []
        for lease in tuple(leases):
            if never_came:
                lease.began_at = None
            back: list[Job] = []
            for job in lease.jobs:
                if job.state is not RUNNING:
                    continue
                if never_came:
                    job.attempt -= 1
                    job.misses += 1
                elif lease.began_at is None:
                    job.has_spare_try = True
                if lease.queue.may_run_again(job, lease, self.settings.attempt_limit):
                    back.append(job)
                else:
                    cls = errors.OutOfResources if out_of_memory else errors.WorkerDied
                    tries = job.attempt + job.misses
                    self.answers.refuse(job, cls("Worker died.", f"{reason} (in {tries} tries)"))
                    broken.append(job.sequence)
            self._drop_lease(worker, lease, now)
            self.waiting.put_back(lease.queue, back)
        queue = self.waiting.queues.get(worker.key)
        if broken and queue is not None:
            self.waiting.refuse(queue.close(broken, worker.worker_id), "its sequence has lost a request")

    def _see_room(self, queue: VersionQueue) -> None:
        """Have a version looked at that has room for another batch now, unless nothing waits for it."""
        has_waiting = queue.row or queue.suspects or queue.kept_worker
        if has_waiting or self.waiting.queues.get(queue.key) is not queue:  # it was registered anew
            self.waiting.changed[queue.key] = None

    def _drop_lease(self, worker: FleetWorker, lease: Lease, now: float) -> None:
        lease.queue.leases -= 1
        worker.leases.remove(lease)
        worker.touched[worker] = None
        del self.by_number[lease.number]
        if lease.jobs[0].sequence:
            lease.queue.release(lease.jobs, now)

    def _begin_next(self, worker: FleetWorker, now: float) -> None:
        """Let the first of the leases that run in order begin, if the one before it has ended."""
        if worker.leases and worker.leases[0].began_at is None:
            worker.leases[0].begin(now)


def _go_together(lease: Lease, before: Sequence[Lease]) -> bool:
    """Tell whether a batch may be in one message with those before it."""
    if not lease.is_in_order or lease.is_describe or any(go_by_socket(job.frames) for job in lease.jobs):
        return False
    return len(lease.jobs) + sum(len(one.jobs) for one in before) <= ASSIGN_LIMIT_JOBS
