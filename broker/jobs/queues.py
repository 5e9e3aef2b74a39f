"""Jobs, leases, and the queue of one model version. Pure; `dispatch` decides which worker gets a job."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from math import inf
from typing import TypeVar

import msgspec

from torchrelay.broker.core.states import JOB_MOVES, JobState
from torchrelay.broker.jobs.batching import concurrent_leases
from torchrelay.broker.jobs.company import Company
from torchrelay.broker.jobs.quarantine import Suspicion, Suspicions
from torchrelay.broker.models.catalog import Key
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.wire.codec import FRAMES_LIMIT, HEAD_LIMIT_BYTES, Frame
from torchrelay.shared.wire.fields import BATCH_LIMIT_JOBS
from torchrelay.shared.wire.presence import SLOWEST_BYTES_PER_S

#: Metas of one batch: half of what a head may hold, so that the rest of it fits in any case.
METAS_LIMIT_BYTES = HEAD_LIMIT_BYTES // 2
#: Messages to workers that may be lost with a job, each noticed within two beats: far more than a bad network
#: loses, and as few as one may cost that no worker can read.
MISSES_LIMIT = 8


class Job(msgspec.Struct, eq=False):
    """One inference request inside the fleet.

    PERF: a struct, and so is Lease: 5 % of what a lone job costs to decide, as with dataclasses each field is
    set in Python.
    """

    gateway: bytes
    #: The gateway's number for it; unique together with `gateway`.
    number: int
    key: Key
    #: Whether the request named the version; only error texts depend on it.
    names_version: bool
    is_describe: bool
    meta: bytes
    frames: tuple[Frame, ...]
    size: int
    arrived_at: float
    #: When waiting in the queue ends; running has the lease's deadline.
    expires_at: float
    #: It had been taken in before, and had waited for this broker: the queue's limit isn't for it.
    was_held: bool = False
    #: The real time at which the client's patience ends, whatever the job does then.
    given_up_at: float = inf
    #: Its client has said so itself, not its model.
    has_own_limit: bool = False
    #: What it belongs to, of a version that batches by sequence.
    sequence: str = ""
    #: Its client named no sequence: this one was made up for it.
    starts_sequence: bool = False
    #: Tries that may have begun, this one included while running: its handler ran as often at most.
    attempt: int = 0
    #: A try ended beside others that may be to blame, or maybe before it began: it may have one more.
    has_spare_try: bool = False
    #: Tries that never reached their worker.
    misses: int = 0
    #: The lease it runs under; 0 while it waits.
    lease: int = 0
    #: Parts of its answer that have been passed on; after the first it isn't tried again.
    parts: int = 0
    #: It, or another with its content, ran on a worker that ended: it is run with nothing beside it.
    suspicion: Suspicion | None = None
    #: Written by `move` alone.
    state: JobState = JobState.QUEUED

    def move(self, new: JobState) -> None:
        """Change the state by the table of legal moves."""
        assert new in JOB_MOVES[self.state], f"illegal move {self.state} -> {new}: {self}"
        self.state = new


class Lease(msgspec.Struct, eq=False):
    """A batch on one worker: the right, and the duty, to answer its jobs."""

    number: int
    #: Where its jobs came from; a version that was registered anew since has another.
    queue: "VersionQueue"
    worker_id: int
    jobs: tuple[Job, ...]
    is_describe: bool
    assigned_at: float
    #: The latest beat of the broker that was sent before it.
    beat: int
    #: Whether its worker runs it after the leases before it, not beside them.
    is_in_order: bool = True
    #: When the worker began it: at once, or when the lease before it was done. None while it waits.
    began_at: float | None = None
    #: When it began, or its latest part came: from then on response_timeout counts.
    heard_at: float = 0.0
    #: Messages with parts of its answers that have come.
    streamed: int = 0
    #: When it was first seen that nobody waits for any of its jobs.
    abandoned_at: float | None = None

    def abandoned_s(self, now: float) -> float:
        """Return for how long it has been seen that nobody waits for its jobs; 0 while somebody does."""
        if any(job.state is JobState.RUNNING for job in self.jobs):
            return 0.0
        if self.abandoned_at is None:
            self.abandoned_at = now
        return now - self.abandoned_at

    def has_crossed(self, by: float) -> bool:
        """Tell whether its message must have reached its worker; a large one takes its time."""
        return (
            self.assigned_at < by
            and self.assigned_at + sum(job.size for job in self.jobs) / SLOWEST_BYTES_PER_S < by
        )

    def begin(self, now: float) -> None:
        """Take note that its worker runs it from now on."""
        self.began_at = self.heard_at = now


def fitting(jobs: Iterable[Job], count: int) -> list[Job]:
    """Return up to `count` of the first jobs, fewer if they would not fit into one message.

    A describe job always travels alone.
    """
    chosen: list[Job] = []
    if count > BATCH_LIMIT_JOBS:
        count = BATCH_LIMIT_JOBS
    frames = meta_bytes = 0
    for job in jobs:
        frames += len(job.frames)
        meta_bytes += len(job.meta)
        if chosen and (job.is_describe or frames > FRAMES_LIMIT or meta_bytes > METAS_LIMIT_BYTES):
            break
        chosen.append(job)
        if job.is_describe or len(chosen) == count:
            break
    return chosen


class Row(OrderedDict[Job, None]):
    """Jobs in the order in which they go; any can be taken out, and it takes as long however many wait.

    Not a plain dict: there what is taken from the head leaves a gap, which each look at the head passes.
    """

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        super().__init__()
        #: How many were let in beside the queue's limit.
        self.held = 0
        for job in jobs:
            self.append(job)

    @property
    def first(self) -> Job:
        """The one that goes first; there must be one."""
        return next(iter(self))

    def append(self, job: Job) -> None:
        """Add a job at the end."""
        self[job] = None
        if job.was_held:
            self.held += 1

    def appendleft(self, job: Job) -> None:
        """Add a job at the head."""
        self.append(job)
        self.move_to_end(job, last=False)

    def remove(self, *jobs: Job) -> None:
        """Take jobs out, wherever they stand. PERF: those of a batch by one call."""
        for job in jobs:
            del self[job]
            if job.was_held:
                self.held -= 1


QueueT = TypeVar("QueueT", bound="VersionQueue")
#: Gives waiting jobs to workers, for one mode of batching; returns when to look again though nothing happens,
#: inf for never.
Strategy = Callable[[QueueT, VersionRecord, float], float]


class VersionQueue(ABC):
    """The jobs that wait for one model version, and what batching has learnt of them.

    What concerns sequences does nothing here: `SequenceQueue` has its own.
    """

    def __init__(self, record: VersionRecord) -> None:
        self.key: Key = (record.model, record.version)
        #: All that wait but the suspects.
        self.row = Row()
        self.config = record.config
        #: Whether a worker runs the batches that it was given one after the other.
        self.runs_in_order = concurrent_leases(record) == 0
        #: How long a batch that isn't full is held back.
        self.company = Company()
        #: Average seconds a batch takes, or one job of those that run side by side, weighted to the recent;
        #: 0 before the first.
        self.service_s = 0.0
        #: How long the handler took over the slowest of the latest batches.
        self.slowest_s = 0.0
        #: Those that wait to be run alone, see `isolation`. None in a queue of sequences.
        self.suspects = Row()
        self.suspicions = Suspicions()
        #: Leases of its jobs that have not ended.
        self.leases = 0
        #: The worker that is kept for suspects, and gets nothing else until one has run there; 0 without one.
        self.kept_worker = 0
        #: When a suspect was last given to a worker.
        self.isolated_at = 0.0

    def __len__(self) -> int:
        return len(self.suspects) + len(self.row)

    @property
    def jobs(self) -> Collection[Job]:
        """All that wait, in the order in which they go."""
        return [*self.suspects, *self.row] if self.suspects else self.row

    @property
    def oldest(self) -> Job | None:
        """The job that came first; None in an empty queue."""
        if self.suspects:
            return min(self.jobs, key=lambda job: job.arrived_at)
        return next(iter(self.jobs), None)

    @property
    def bounded(self) -> int:
        """How many jobs wait that count towards the limit: those held before were let in beside it."""
        return len(self.row) - self.row.held

    @abstractmethod
    def hand_out(self, record: VersionRecord, now: float) -> float:
        """Give waiting jobs to workers by the mode of the version; see `Strategy`."""

    # Jobs come and go

    @abstractmethod
    def push(self, job: Job) -> None:
        """Add a new job at the end."""

    @abstractmethod
    def put_back(self, jobs: Sequence[Job]) -> None:
        """Return jobs to the head in their order. The bound doesn't apply."""

    @abstractmethod
    def remove(self, *jobs: Job) -> None:
        """Take out jobs; nobody waits for them any more."""

    @abstractmethod
    def suspect(self, job: Job, suspicion: Suspicion) -> None:
        """Have a waiting job run alone, whose content may end workers."""

    def take_expired(self, now: float) -> list[Job]:
        """Take the jobs at the head whose time to wait is over."""
        expired = []
        while (oldest := self.oldest) is not None and oldest.expires_at <= now:
            self.remove(oldest)
            expired.append(oldest)
        return expired

    def take_suspects(self, count: int) -> tuple[Job, ...]:
        """Take up to `count` of the suspects, as many as are `fitting`."""
        return _taken(self.suspects, count)

    def take_all(self) -> list[Job]:
        """Empty the queue."""
        jobs = list(self.jobs)
        self.remove(*jobs)
        return jobs

    def may_run_again(self, job: Job, lease: Lease, attempt_limit: int) -> bool:
        """Tell whether a job that is taken back from a worker may go to another one."""
        if job.parts or job.misses >= MISSES_LIMIT:
            return False
        return job.attempt < attempt_limit or (job.has_spare_try and job.attempt == attempt_limit > 1)

    # Sequences; a queue without them has none to care for

    def why_not(self, job: Job, record: VersionRecord, *, is_bounded: bool) -> str:
        """Say why a new job of a sequence can't be taken, empty if it can; `is_bounded`: within limits."""
        return ""

    def streams(self, job: Job) -> bool:
        """Take note of the first part of a job's answer; tell whether another may go to a worker now."""
        return False

    def release(self, jobs: Iterable[Job], now: float) -> None:
        """Take note that a lease has ended, however it did: none of its jobs runs any more."""
        return

    def close(self, sequences: Iterable[str], worker_id: int) -> list[Job]:
        """Close those of the sequences that stick to the worker; return what waited in them."""
        return []

    def lose_worker(self, worker_id: int) -> list[Job]:
        """Close a worker's sequences and return what waited in them; one not begun waits for another."""
        return []

    def forget_idle(self, now: float) -> None:
        """Forget the sequences that have been idle, or open, for too long."""
        return


class PlainQueue(VersionQueue):
    """One row for all, first come, first served."""

    def __init__(self, record: VersionRecord, strategy: "Strategy[PlainQueue]") -> None:
        super().__init__(record)
        self._strategy = strategy

    def hand_out(self, record: VersionRecord, now: float) -> float:
        """Give waiting jobs to workers, in order or at the same time."""
        return self._strategy(self, record, now)

    def push(self, job: Job) -> None:
        """Add a new job at the end."""
        (self.row if job.suspicion is None else self.suspects).append(job)

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Return jobs to where they were by their age. The bound doesn't apply.

        Of the suspects those come last that were alone on a worker that ended: it was them, most likely.
        """
        back = [job for job in jobs if job.suspicion is None]
        self.row = Row(sorted((*back, *self.row), key=lambda job: job.arrived_at))
        for job in reversed(jobs):
            if job.suspicion and job.suspicion.lost_with:
                self.suspects.appendleft(job)
            elif job.suspicion:
                self.suspects.append(job)

    def remove(self, *jobs: Job) -> None:
        """Take out jobs; nobody waits for them any more."""
        for job in jobs:
            (self.row if job.suspicion is None else self.suspects).remove(job)

    def suspect(self, job: Job, suspicion: Suspicion) -> None:
        """Move a waiting job to the suspects."""
        self.remove(job)
        job.suspicion = suspicion
        self.push(job)

    def take_expired(self, now: float) -> list[Job]:
        """Take the jobs whose time to wait is over: suspects wherever they are, others at the head."""
        expired: list[Job] = []
        if self.suspects:
            expired += [job for job in self.suspects if job.expires_at <= now]
            for job in expired:
                self.suspects.remove(job)
        while self.row and self.row.first.expires_at <= now:
            expired.append(self.row.first)
            self.row.remove(self.row.first)
        return expired

    def take(self, count: int) -> tuple[Job, ...]:
        """Take up to `count` jobs for a batch, as many as are `fitting`."""
        return _taken(self.row, count)


def _taken(row: Row, count: int) -> tuple[Job, ...]:
    jobs = fitting(row, count)
    row.remove(*jobs)
    return tuple(jobs)
