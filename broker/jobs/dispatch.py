"""Which worker gets a batch, by the mode of batching. Pure.

- in order: batches, of which some are sent ahead, see `batching.lease_limit`; and `best_worker`;
- concurrently (`continuousBatching`, `asyncCommunication`): leases of one job each that run at the same time,
  as many on a worker as `batching.concurrent_leases` says;
- by sequence (`sequenceBatching`): one job of each sequence in a batch, on the worker that the sequence
  sticks to, see `sequences`.

How long a batch is held back for more jobs, `company` says. What may have ended a worker goes its own way,
see `isolation`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.jobs import batching
from torchrelay.broker.jobs.due_versions import DueVersions
from torchrelay.broker.jobs.isolation import Assign, Isolation
from torchrelay.broker.jobs.load import is_hopeless
from torchrelay.broker.jobs.queues import Job, PlainQueue, VersionQueue
from torchrelay.broker.jobs.sequences import SequenceQueue
from torchrelay.broker.jobs.waiting_jobs import JobsPart
from torchrelay.broker.models.catalog import Key
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.wire.codec import go_by_socket


@dataclass(slots=True, eq=False)
class Dispatch(JobsPart):
    """Hands out, once a turn, the jobs of versions whose queue or workers changed."""

    isolation: Isolation
    assign: Assign
    #: Turns a time of the core into real time, which is what clients wait in.
    real_time: Callable[[float], float]
    #: When to look at a version though nothing happens: a batch has waited for more jobs long enough.
    due: DueVersions = field(default_factory=DueVersions)
    #: The broker is about to stop, and what begins now would be cut off.
    is_held_back: bool = False

    def next_due(self) -> float:
        """Return when there is something to hand out though nothing happens."""
        return self.due.next

    def run(self, now: float) -> None:
        """Hand out what can go."""
        changed = self.waiting.changed
        if self.due.next <= now:
            changed.update(dict.fromkeys(self.due.take(now)))
        while changed:
            self.dispatch(changed.popitem()[0], now)

    def dispatch(self, key: Key, now: float) -> None:
        """Give a version's waiting jobs to its workers, as far as `batching` lets them go."""
        if self.due.next < inf:
            self.due.remove(key)
        record = self.catalog.get(key)
        queue = self.waiting.queues.get(key)
        if record is None or queue is None or self.is_held_back:
            return
        if queue.config is not record.config:
            queue = self.queue_for(record)
        if not (queue.row or queue.suspects or queue.kept_worker):
            return
        if expired := queue.take_expired(now):
            why = self.fleet.explain(record, now) or "all busy"
            retry_after_s = self.retry_after_s(record, queue)
            for job in expired:
                waited = f"it waited {now - job.arrived_at:.0f} s in the queue; {why}"
                self.waiting.refuse([job], waited, retry_after_s)
        due = inf
        if queue.suspects or queue.kept_worker:
            due = self.isolation.hand_out(queue, record, now, self.assign)
        due = min(due, queue.hand_out(record, now))
        if due < inf:
            self.due.set(key, due)

    def queue_for(self, record: VersionRecord) -> VersionQueue:
        """Return a version's queue, making it at first use."""
        key = (record.model, record.version)
        old = self.waiting.queues.get(key)
        if old is not None and old.config is record.config:
            return old
        queue = self._new_queue(record)
        if old is not None:  # the version was registered anew, with another archive
            for job in sorted(old.take_all(), key=lambda job: job.arrived_at):
                job.suspicion = None
                queue.push(job)
        self.waiting.queues[key] = queue
        return queue

    def _new_queue(self, record: VersionRecord) -> VersionQueue:
        if record.config.sequence_batching:
            return SequenceQueue(record, self._by_sequence)
        return PlainQueue(
            record, self._concurrently if batching.concurrent_leases(record) else self._in_order
        )

    # The strategies, one for each mode; see `queues.Strategy`.

    def _in_order(self, queue: PlainQueue, record: VersionRecord, now: float) -> float:
        """Give a worker one batch, and others ahead where batches are short; it runs them in turn."""
        late = now - 2 * self.settings.beat_interval_s
        limit = 0
        while queue.row:
            worker = best_worker(self.fleet, queue, late)
            if worker is None:
                return self._look_again(queue, now)
            if (held := len(worker.leases)) and (
                held >= (limit := limit or self._lease_limit(queue, record))
                or len(queue.row) < record.batch_size
                or (held > 1 and go_by_socket(queue.row.first.frames))
            ):
                break
            hold_s = _hold_s(queue, queue.row.first, len(queue.row), record, now)
            if hold_s > 0:
                return now + hold_s
            if self.waiting.deadlines and self._refuse_hopeless(queue, record, now):
                continue
            count = 1 if queue.suspicions.known and not worker.has_answered else record.batch_size
            self.assign(queue, queue.take(count), record, worker, now)
            if len(queue.row) >= record.batch_size and not queue.suspicions.known:
                limit = limit or self._lease_limit(queue, record)
                self._give_more(queue, record, worker, limit, now)
        return inf

    def _give_more(
        self, queue: PlainQueue, record: VersionRecord, worker: FleetWorker, limit: int, now: float
    ) -> None:
        """Give a worker that has just got a batch others with it, where all of them are very short.

        PERF: four workers on two cores echo 1.19, 1.26, 1.16 and 1.07 times as many at 4, 16, 64 and 256
        connections, in batches of one: fewer of them wake up for the same. One worker, which isn't chosen
        anew for each batch, 1.05 times as many at 16.
        """
        limit = min(limit, len(worker.leases) + batching.together(slowest_s=queue.slowest_s) - 1)
        while len(queue.row) >= record.batch_size and len(worker.leases) < limit:
            head = queue.row.first
            if head.attempt or go_by_socket(head.frames):
                return
            if self.waiting.deadlines and self._refuse_hopeless(queue, record, now):
                continue
            self.assign(queue, queue.take(record.batch_size), record, worker, now)

    def _lease_limit(self, queue: PlainQueue, record: VersionRecord) -> int:
        """Return how many batches a worker of a version may have.

        Where there are several workers, one that meets a slow batch keeps what is behind it from the others.
        """
        service_s = queue.service_s
        workers = self.fleet.versions.get(queue.key)
        if service_s and workers is not None and workers.reachable > 1:
            service_s = max(service_s, queue.slowest_s)
        return batching.lease_limit(
            batch_size=record.batch_size, service_s=service_s, ahead_s=self.settings.ahead_s
        )

    def _concurrently(self, queue: PlainQueue, record: VersionRecord, now: float) -> float:
        """Give each job a lease of its own, which runs beside others; the worker makes batches of them."""
        late = now - 2 * self.settings.beat_interval_s
        limit = batching.concurrent_leases(record)
        while queue.row:
            worker = best_worker(self.fleet, queue, late)
            if worker is None:
                return self._look_again(queue, now)
            if len(worker.leases) >= limit:
                break
            if self.waiting.deadlines and self._refuse_hopeless(queue, record, now):
                continue
            self.assign(queue, queue.take(1), record, worker, now)
        return inf

    def _look_again(self, queue: PlainQueue, now: float) -> float:
        """Return when to look at a queue again for whose first job there is no worker: one may be heard."""
        return now + self.settings.beat_interval_s if queue.row.first.attempt else inf

    def _refuse_hopeless(self, queue: PlainQueue, record: VersionRecord, now: float) -> bool:
        """Refuse the job whose turn has come where it can't be answered in time; tell whether it was.

        Else a worker would run what nobody gets, and what waits behind it would come too late as well.
        """
        job = queue.row.first
        if job.given_up_at == inf:
            return False
        left_s = job.given_up_at - self.real_time(now)
        if not is_hopeless(left_s=left_s, service_s=queue.service_s, others=len(queue.row) - 1):
            return False
        queue.remove(job)
        why = f"its client waits {left_s:.1f} s more, and a batch takes about {queue.service_s:.1f} s"
        self.waiting.refuse([job], why, self.retry_after_s(record, queue))
        return True

    def _by_sequence(self, queue: SequenceQueue, record: VersionRecord, now: float) -> float:
        """Give each worker of the jobs that may run there; a new sequence sticks where the fewest do.

        Among equals workers take turns, as in TorchServe: a handler may remember a sequence that is over.
        """
        in_order = queue.runs_in_order
        workers = [worker for worker in self.fleet.ready(queue.key) if not worker.is_cut]
        room = {worker: batching.room(record, leases=len(worker.leases)) for worker in workers}
        while queue.describes and (free := [worker for worker in workers if room[worker] > 0]):
            worker = min(free, key=lambda w: (len(w.leases), w.worker_id))
            room[worker] = 0 if in_order else room[worker] - 1
            self.assign(queue, queue.take(worker.worker_id, 1), record, worker, now)
        while queue.has_unplaced:
            free = [worker for worker in workers if room[worker] > len(queue.ready(worker.worker_id))]
            if not free:
                break
            worker = min(free, key=lambda w: (queue.load(w.worker_id), w.last_assigned_at, w.worker_id))
            queue.stick_next(worker.worker_id)
        due = inf
        for worker in workers:
            while room[worker] > 0 and (ready := queue.ready(worker.worker_id)):
                hold_s = _hold_s(queue, ready[0], len(ready), record, now) if in_order else 0.0
                if hold_s > 0:
                    due = min(due, now + hold_s)
                    break
                jobs = queue.take(worker.worker_id, record.batch_size if in_order else 1)
                room[worker] = 0 if in_order else room[worker] - 1
                self.assign(queue, jobs, record, worker, now)
        return due


def best_worker(fleet: Fleet, queue: VersionQueue, late: float) -> FleetWorker | None:
    """Return the ready worker with the fewest leases that may have one more.

    Of several it is the one that ran last, whose caches are warm; one whose node has not been heard since
    `late` comes after all others like it, and is given no job that has lost a worker: what has cut that one
    off may have cut off this one as well, which is found out a moment later. While something is suspected of
    ending workers, a new one is to show first that it answers: it comes before the others then, and has one
    lease until it has.
    """
    workers = fleet.versions.get(queue.key)
    if workers is None:
        return None
    kept, prove_first = queue.kept_worker, bool(queue.suspicions.known)
    worker = workers.best(late, kept=kept, prove_first=prove_first)
    if worker is not None and worker.node in fleet.late_nodes.peers and queue.row and queue.row.first.attempt:
        return workers.best(late, kept=kept, prove_first=prove_first, spares_late=True)
    return worker


def _hold_s(queue: VersionQueue, head: Job, depth: int, record: VersionRecord, now: float) -> float:
    """Return how long a batch of so many jobs, of which this goes first, is held back; 0: it goes."""
    if depth >= record.batch_size or head.is_describe:
        return 0.0
    return queue.company.hold_s(
        depth=depth, max_delay_s=record.max_batch_delay_ms / 1000, head_at=head.arrived_at,
        service_s=queue.service_s, now=now,
    )  # fmt: skip
