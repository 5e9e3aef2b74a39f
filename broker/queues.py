"""Jobs and the bounded queue of one model version. Pure; `core` decides who goes where."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.catalog import Key
from broker.states import JobState, check_move
from shared.wire import FRAMES_LIMIT, HEAD_LIMIT_BYTES, Frame

#: Metas of one batch: half of what a head may hold, so that the rest of it fits in any case.
METAS_LIMIT_BYTES = HEAD_LIMIT_BYTES // 2


@dataclass(slots=True, eq=False)
class Job:
    """One inference request inside the fleet."""

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
    #: Tries that began, this one included while running.
    attempt: int = 0
    #: Written by `move` alone.
    state: JobState = JobState.QUEUED

    def move(self, new: JobState) -> None:
        """Change the state by the table of legal moves."""
        check_move(self.state, new, self)
        self.state = new


@dataclass(slots=True, eq=False)
class Lease:
    """A batch on one worker: the right, and the duty, to answer its jobs."""

    number: int
    key: Key
    worker_id: int
    jobs: tuple[Job, ...]
    is_describe: bool
    #: When the worker began it: at once, or when the lease before it was done. None while it waits.
    began_at: float | None = None


@dataclass(slots=True)
class VersionQueue:
    """The jobs that wait for one model version, oldest first, and what batching has learnt of them."""

    key: Key
    limit_jobs: int
    jobs: deque[Job] = field(default_factory=deque)
    #: Sum of the sizes in `jobs`.
    size: int = 0
    #: Batching delays in a row that no further job came to share; see `policy`.
    futile_waits: int = 0
    #: Average seconds a batch takes, weighted to the recent; 0 before the first.
    service_s: float = 0.0

    def __len__(self) -> int:
        return len(self.jobs)

    def push(self, job: Job) -> None:
        """Add a new job at the end."""
        self.jobs.append(job)
        self.size += job.size

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Return jobs to the head in their order; their worker was lost. The bound doesn't apply."""
        for job in reversed(jobs):
            job.move(JobState.QUEUED)
            self.jobs.appendleft(job)
            self.size += job.size

    def take(self, count: int) -> tuple[Job, ...]:
        """Take up to `count` jobs for a batch, fewer if they would not fit into one message.

        A describe job always travels alone.
        """
        taken: list[Job] = []
        frames = meta_bytes = 0
        while self.jobs and len(taken) < count:
            job = self.jobs[0]
            frames += len(job.frames)
            meta_bytes += len(job.meta)
            if taken and (job.is_describe or frames > FRAMES_LIMIT or meta_bytes > METAS_LIMIT_BYTES):
                break
            taken.append(self._popleft())
            if job.is_describe:
                break
        return tuple(taken)

    def take_expired(self, now: float) -> list[Job]:
        """Take the jobs at the head whose time to wait is over."""
        expired = []
        while self.jobs and self.jobs[0].expires_at <= now:
            expired.append(self._popleft())
        return expired

    def take_all(self) -> list[Job]:
        """Empty the queue."""
        jobs = list(self.jobs)
        self.jobs.clear()
        self.size = 0
        return jobs

    def remove(self, job: Job) -> None:
        """Take one job out of the middle; its client has gone."""
        self.jobs.remove(job)
        self.size -= job.size

    def _popleft(self) -> Job:
        job = self.jobs.popleft()
        self.size -= job.size
        return job
