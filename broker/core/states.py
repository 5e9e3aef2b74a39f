"""States of jobs and workers, and the moves between them that are legal.

The tables are the law: a job or a worker moves by its method `move` alone, so that an illegal move is an
assertion that names its subject and never a silent corruption.
"""

from enum import StrEnum


class JobState(StrEnum):
    """The state of a job; it has ended once it is answered or nobody waits for it any more."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


class WorkerState(StrEnum):
    """The state of a worker, as the broker knows it."""

    #: Its node was ordered to start it, or holds it, and it has not said hello.
    STARTING = "starting"
    #: It has loaded its model and takes batches.
    READY = "ready"
    #: It has been ready, and its handler's is_ready() says no: it gets no batch until that says yes.
    UNREADY = "unready"
    #: It finishes what it has and gets no more.
    DRAINING = "draining"
    #: Its node was ordered to stop it.
    STOPPING = "stopping"
    GONE = "gone"


#: PERF: in Python 3.11 reading a member from its class takes ten times as long as a name of the module.
#: What is read for every job has names here: 1 % of a job on its own, as much as ranking its worker adds.
RUNNING, ENDED = JobState.RUNNING, JobState.ENDED
READY, DRAINING = WorkerState.READY, WorkerState.DRAINING

JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.ENDED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.ENDED}),
    JobState.ENDED: frozenset(),
}

WORKER_MOVES: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.STARTING: frozenset({WorkerState.READY, WorkerState.STOPPING, WorkerState.GONE}),
    WorkerState.READY: frozenset(
        {WorkerState.UNREADY, WorkerState.DRAINING, WorkerState.STOPPING, WorkerState.GONE}
    ),
    WorkerState.UNREADY: frozenset(
        {WorkerState.READY, WorkerState.DRAINING, WorkerState.STOPPING, WorkerState.GONE}
    ),
    WorkerState.DRAINING: frozenset({WorkerState.STOPPING, WorkerState.GONE}),
    WorkerState.STOPPING: frozenset({WorkerState.GONE}),
    WorkerState.GONE: frozenset(),
}

#: States that count towards a version's target.
LIVE = frozenset({WorkerState.STARTING, WorkerState.READY, WorkerState.UNREADY})
#: States of a worker that has loaded its model and is to take batches, now or later.
UP = frozenset({WorkerState.READY, WorkerState.UNREADY})
