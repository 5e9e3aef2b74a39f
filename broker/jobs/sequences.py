"""Sequences of jobs that must run in their order on one worker, whose handler keeps their state. Pure.

The queue of a version that batches by sequence (`sequenceBatching`): a sequence is opened by its first
job, sticks to the worker that runs it, and is closed when it has been idle or open for too long, when
its handler ends it, or when its worker goes: its state is lost then, so that what waits is refused
rather than run without it. The rules are TorchServe's where it has any.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

from torchrelay.broker.jobs.quarantine import Suspicion
from torchrelay.broker.jobs.queues import MISSES_LIMIT, Job, Lease, Strategy, VersionQueue, fitting
from torchrelay.broker.models.records import VersionRecord


@dataclass(slots=True, eq=False)
class OpenSequence:
    """One sequence, from its first job until nothing of it runs and nothing more may come."""

    id: str
    #: When it takes no further job, however busy it is.
    ends_at: float
    #: When it was last heard of, if nothing of it waits or runs.
    idle_since: float
    #: Where it sticks; None until a worker has room for its first job.
    worker_id: int | None = None
    waiting: deque[Job] = field(default_factory=deque)
    #: Its jobs on the worker, whose leases are not over; cancelled ones too, since the worker runs them.
    running: list[Job] = field(default_factory=list)
    #: Jobs that have been sent to its worker: from the first on, its state is there.
    begun: int = 0
    #: Takes no more jobs, and is forgotten once none of its runs.
    is_closed: bool = False


class SequenceQueue(VersionQueue):
    """The jobs of one version by sequence, and where each sequence sticks."""

    def __init__(self, record: VersionRecord, strategy: "Strategy[SequenceQueue]") -> None:
        super().__init__(record)
        self._strategy = strategy
        config = record.config
        self._limit_jobs = config.max_sequence_queue_jobs
        self._max_idle_s = config.sequence_max_idle_ms / 1000
        self._timeout_s = config.sequence_timeout_ms / 1000 or inf
        #: All that have not been forgotten, by id.
        self.sequences: dict[str, OpenSequence] = {}
        self._on_worker: defaultdict[int, dict[OpenSequence, None]] = defaultdict(dict)
        #: Sequences whose next job may run, by their worker and in the order they became so; those
        #: without a worker are under None. Written by `_update` alone.
        self._ready: defaultdict[int | None, dict[OpenSequence, None]] = defaultdict(dict)
        #: Describe jobs belong to no sequence: any worker takes them.
        self.describes: deque[Job] = deque()

    def hand_out(self, record: VersionRecord, now: float) -> float:
        """Have new sequences stick to workers, and give these a job of each."""
        return self._strategy(self, record, now)

    # Reading

    @property
    def has_unplaced(self) -> bool:
        """Whether a sequence waits for a worker to stick to."""
        return bool(self._ready[None])

    def load(self, worker_id: int) -> int:
        """Return how many sequences stick to a worker."""
        return len(self._on_worker.get(worker_id, ()))

    def ready(self, worker_id: int) -> list[Job]:
        """Return the jobs that a worker could run now, one of each of its sequences."""
        return [sequence.waiting[0] for sequence in self._ready[worker_id]]

    def why_not(self, job: Job, record: VersionRecord, *, is_bounded: bool) -> str:
        """Say why a new job of a sequence can't be taken; see `VersionQueue`. The limits are TorchServe's."""
        now = job.arrived_at
        sequence = self.sequences.get(job.sequence)
        if sequence is not None and self._is_over(sequence, now):
            self._forget(sequence)
            sequence = None
        if sequence is not None and (sequence.is_closed or sequence.ends_at <= now):
            return "its sequence has ended; wait for its last answer to begin another"
        if not is_bounded:
            return ""
        if sequence is None:
            # TorchServe's: never fewer than its workers can run at once, however it was scaled.
            limit = max(record.config.max_sequences, record.batch_size * record.max_workers)
            if len(self.sequences) >= limit:
                self.forget_idle(now)
            if len(self.sequences) >= limit:
                return f"{len(self.sequences)} sequences are open, the limit of maxNumSequence"
            return ""
        # What could run next has left the queue in TorchServe.
        waiting = len(sequence.waiting) - (not sequence.running)
        if waiting >= self._limit_jobs:
            return f"its sequence's queue holds {waiting} jobs, the limit of maxSequenceJobQueueSize"
        return ""

    def may_run_again(self, job: Job, lease: Lease, attempt_limit: int) -> bool:
        """Tell whether a job may go to another worker: of a sequence, what its worker has not begun."""
        if not job.sequence:
            return super().may_run_again(job, lease, attempt_limit)
        sequence = self.sequences.get(job.sequence)
        has_begun = job.parts or job.misses >= MISSES_LIMIT or lease.began_at is not None
        return not (has_begun or sequence is None or sequence.is_closed)

    # Jobs come and go

    def push(self, job: Job) -> None:
        """Add a new job at the end; one that `why_not` has nothing against."""
        self.row.append(job)
        if not job.sequence:
            self.describes.append(job)
            return
        now = job.arrived_at
        sequence = self.sequences.get(job.sequence)
        if sequence is None:
            sequence = OpenSequence(job.sequence, now + self._timeout_s, now)
            self.sequences[sequence.id] = sequence
        sequence.idle_since = now
        sequence.waiting.append(job)
        self._update(sequence)

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Return jobs that never reached their worker to the head of their sequences."""
        for job in reversed(jobs):
            self.row.appendleft(job)
            if job.sequence:
                sequence = self.sequences[job.sequence]
                sequence.waiting.appendleft(job)
                sequence.begun -= 1
                self._update(sequence)
            else:
                self.describes.appendleft(job)

    def remove(self, *jobs: Job) -> None:
        """Take out jobs; nobody waits for them any more."""
        for job in jobs:
            self.row.remove(job)
        gone = set(map(id, jobs))
        if not all(job.sequence for job in jobs):
            self.describes = deque(job for job in self.describes if id(job) not in gone)
        for name in {job.sequence for job in jobs if job.sequence}:
            sequence = self.sequences[name]
            sequence.waiting = deque(job for job in sequence.waiting if id(job) not in gone)
            self._update(sequence)

    def suspect(self, job: Job, suspicion: Suspicion) -> None:
        """Have a waiting job run alone when its turn comes: a sequence keeps its order."""
        job.suspicion = suspicion

    def take(self, worker_id: int, count: int) -> tuple[Job, ...]:
        """Take a batch for a worker: a describe job, or one job of each of up to `count` sequences."""
        if self.describes:
            job = self.describes.popleft()
            self.row.remove(job)
            return (job,)
        ready = self.ready(worker_id)
        if self.suspicions.known:  # what may have ended a worker runs alone
            suspects = [job for job in ready if job.suspicion is not None]
            ready = suspects[:1] or ready
        jobs = fitting(ready, count)
        for job in jobs:
            self.row.remove(job)
            sequence = self.sequences[job.sequence]
            sequence.running.append(sequence.waiting.popleft())
            sequence.begun += 1
            self._update(sequence)
        return tuple(jobs)

    def streams(self, job: Job) -> bool:
        """Take note of the first part of a job's answer, after which the next may join it."""
        if job.sequence:
            self._update(self.sequences[job.sequence])
        return True

    def release(self, jobs: Iterable[Job], now: float) -> None:
        """Take note that a lease has ended, however it did: none of its jobs runs any more."""
        for job in jobs:
            if not job.sequence:
                continue
            sequence = self.sequences[job.sequence]
            sequence.running.remove(job)
            sequence.idle_since = now
            if sequence.is_closed and not sequence.running:
                self._forget(sequence)
            else:
                self._update(sequence)

    # Sequences come and go

    def stick_next(self, worker_id: int) -> None:
        """Have the sequence that has waited longest for a worker stick to this one."""
        sequence = next(iter(self._ready[None]))
        del self._ready[None][sequence]
        sequence.worker_id = worker_id
        self._on_worker[worker_id][sequence] = None
        self._update(sequence)

    def close(self, sequences: Iterable[str], worker_id: int) -> list[Job]:
        """Close those of the sequences that stick to the worker; return what waited in them."""
        return [
            job
            for name in sequences
            if (sequence := self.sequences.get(name)) and sequence.worker_id == worker_id
            for job in self._close(sequence)
        ]

    def lose_worker(self, worker_id: int) -> list[Job]:
        """Close a worker's sequences and return what waited in them; one not begun waits for another."""
        waiting: list[Job] = []
        for sequence in self._on_worker.pop(worker_id, ()):
            if sequence.begun:
                waiting += self._close(sequence)
            else:
                sequence.worker_id = None
                self._update(sequence)
        self._ready.pop(worker_id, None)
        return waiting

    def forget_idle(self, now: float) -> None:
        """Forget the sequences that have been idle, or open, for too long."""
        for sequence in [s for s in self.sequences.values() if self._is_over(s, now)]:
            self._forget(sequence)

    def _is_over(self, sequence: OpenSequence, now: float) -> bool:
        if sequence.waiting or sequence.running:
            return False
        return now >= sequence.idle_since + self._max_idle_s or now >= sequence.ends_at

    def _close(self, sequence: OpenSequence) -> list[Job]:
        jobs = list(sequence.waiting)
        for job in jobs:
            self.row.remove(job)
        sequence.waiting.clear()
        sequence.is_closed = True
        self._update(sequence)
        if not sequence.running:
            self._forget(sequence)
        return jobs

    def _forget(self, sequence: OpenSequence) -> None:
        del self.sequences[sequence.id]
        if sequence.worker_id is not None:
            self._on_worker.get(sequence.worker_id, {}).pop(sequence, None)

    def _update(self, sequence: OpenSequence) -> None:
        """Enter a sequence among those whose next job may run, or take it out."""
        # Side by side the next job may run once those before it have begun to stream.
        is_free = not self.runs_in_order and all(job.parts for job in sequence.running)
        if sequence.waiting and (not sequence.running or is_free):
            self._ready[sequence.worker_id][sequence] = None
        else:
            self._ready[sequence.worker_id].pop(sequence, None)
