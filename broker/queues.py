"""Jobs and the bounded queue of one model version. Pure; `core` decides who goes where."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.catalog import Key
from broker.states import JobState, check_move
from shared.wire import Frame


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
        """Take up to `count` jobs for a batch; a describe job always travels alone."""
        taken: list[Job] = []
        while self.jobs and len(taken) < count:
            if self.jobs[0].is_describe and taken:
                break
            taken.append(self._popleft())
            if taken[0].is_describe:
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
