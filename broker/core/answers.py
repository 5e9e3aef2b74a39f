"""Answers to gateways: the jobs that each waits for, and its answers of a turn in few messages. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torchrelay.broker.core.states import ENDED, JobState
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.jobs.queues import Job
from torchrelay.shared import errors
from torchrelay.shared.deadlines import TIMEOUT_HEADER
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame
from torchrelay.shared.wire.serials import ROW_BITS, Unheard

#: Answers in one message to a gateway; what a turn has above it goes in further ones.
ANSWERS_PER_MESSAGE = 256

#: Answers that are kept for a gateway until it has them: messages, and the bytes of their bodies.
KEPT_LIMIT = 8192
KEPT_LIMIT_BYTES = 32 << 20
#: A gateway's answers are numbered in so many rows at most, as 2 is to the power of it.
ROWS_OF_ONE_BITS = 8

Send = Callable[[bytes, m.Message, Sequence[Frame]], None]


@dataclass(slots=True, eq=False)
class Gateway:
    """A gateway process: its jobs, and the answers that it gets at the end of the turn."""

    peer: bytes
    name: str
    last_heard: float
    #: What its process took in before it heard this beat had to wait for a broker that heard nothing.
    held_before: int = 0
    #: Its jobs that have not ended, by its own numbers.
    jobs: dict[int, Job] = field(default_factory=dict)
    answered: list[m.AnsweredItem] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    refused: list[m.RefusedItem] = field(default_factory=list)
    #: What it was answered and has not said to have; None of one whose protocol doesn't number it.
    unheard: Unheard[m.Answered | m.Refused, Frame] | None = None
    #: The serial of its latest Submit.
    submitted: int = 0

    def begin_row(self, number: int) -> None:
        """Number its answers from now on, in a row after all those that it may have heard of."""
        self.unheard = Unheard(KEPT_LIMIT, KEPT_LIMIT_BYTES, (number << ROW_BITS) << ROWS_OF_ONE_BITS)

    @property
    def is_owed(self) -> bool:
        """Whether workers run something for it, or answers are kept for it: else that would be run again."""
        if self.unheard is None:
            return False
        return bool(self.unheard.kept) or any(job.state is JobState.RUNNING for job in self.jobs.values())

    @property
    def unheard_jobs(self) -> set[int]:
        """Its jobs whose answers are kept for it."""
        kept = self.unheard.kept if self.unheard else ()
        return {item.job for message, _ in kept for item in message.items}


class Answers:
    """The gateways, and the only place where jobs end."""

    def __init__(self, stats: Stats, send: Send) -> None:
        self._stats = stats
        self._send = send
        self.gateways: dict[bytes, Gateway] = {}

    def pass_on(
        self, job: Job, meta: bytes, frames: Sequence[Frame], *, is_final: bool, has_failed: bool = False
    ) -> None:
        """Send a worker's answer, or the next part of one."""
        gateway = self.gateways[job.gateway]
        answered = gateway.answered
        answered.append(m.AnsweredItem(job.number, meta, len(frames), is_final, job.parts))
        if frames:
            gateway.frames.extend(frames)
        if len(answered) >= ANSWERS_PER_MESSAGE:
            self.flush(gateway)
        if is_final:
            self._end(gateway, job, "failed" if has_failed else "answered")
        else:
            job.parts += 1

    def refuse(self, job: Job, error: errors.RelayError) -> None:
        """Answer a job with an error of the broker."""
        self.gateways[job.gateway].refused.append(job_refused(job.number, error))
        self.end(job, error.name)

    def refuse_unadmitted(self, gateway: Gateway, number: int, error: errors.RelayError) -> None:
        """Answer a request that was never admitted as a job."""
        gateway.refused.append(job_refused(number, error))

    def end(self, job: Job, outcome: str) -> None:
        """Count a job's outcome and forget it; called elsewhere only for a job that nobody waits for."""
        self._end(self.gateways[job.gateway], job, outcome)

    def _end(self, gateway: Gateway, job: Job, outcome: str) -> None:
        job.move(ENDED)
        self._stats.versions[job.key].outcomes[outcome] += 1
        del gateway.jobs[job.number]

    def job(self, peer: bytes, number: int) -> Job | None:
        """Return the job of a gateway by its number; None if it has ended."""
        gateway = self.gateways.get(peer)
        return gateway.jobs.get(number) if gateway else None

    def send_again(self, gateway: Gateway, after: int) -> None:
        """Send a gateway its answers after this serial once more."""
        if gateway.unheard is not None:
            for message, frames in gateway.unheard.after(after):
                self._send(gateway.peer, message, frames)

    def flush(self, gateway: Gateway) -> None:
        """Send a gateway the answers gathered so far."""
        unheard = gateway.unheard
        if gateway.answered:
            answered = m.Answered(tuple(gateway.answered), unheard.next_serial() if unheard else 0)
            if unheard:
                size = sum([len(item.meta) for item in gateway.answered])
                if gateway.frames:
                    size += sum(map(len, gateway.frames))
                unheard.keep(answered, gateway.frames, size)
            self._send(gateway.peer, answered, gateway.frames)
            gateway.answered, gateway.frames = [], []
        if gateway.refused:
            refused = m.Refused(tuple(gateway.refused), unheard.next_serial() if unheard else 0)
            if unheard:
                unheard.keep(refused, (), 0)
            self._send(gateway.peer, refused, ())
            gateway.refused = []


def job_refused(number: int, error: errors.RelayError) -> m.RefusedItem:
    """Return the answer to a job that met an error, by the gateway's number for it."""
    return m.RefusedItem(number, error.name, error.message, error.details, error.retry_after_s)


def ask_refused(number: int, error: errors.RelayError) -> m.AskRefused:
    """Return the answer to an ask that met an error, by the gateway's number for it."""
    return m.AskRefused(number, error.name, error.message, error.details)


def no_worker(job: Job, details: str, retry_after_s: int = 1) -> errors.ServiceUnavailable:
    """Return TorchServe's one error for "no worker", "queue full" and more; so is the unpaired quote."""
    model, version = job.key
    named = f'Model "{model}" Version {version}"' if job.names_version else f'Model "{model}"'
    if job.is_describe:
        return errors.ServiceUnavailable(
            f"{named} has no worker to serve describe request. Please use scale workers API to add workers.",
            details,
            retry_after_s=retry_after_s,
        )
    return errors.ServiceUnavailable(
        f"{named} has no worker to serve inference request. Please use scale workers API to add workers. "
        "If this is a sequence inference, please check if it is closed, or expired; "
        "or exceeds maxSequenceJobQueueSize",
        details,
        retry_after_s=retry_after_s,
    )


def late(job: Job, limit_s: float) -> errors.PredictionTimeout:
    """Return the error of a job that has not ended within its client's or its model's limit."""
    limit = f"model's clientTimeoutInMills of {1000 * limit_s:.0f}"
    if job.has_own_limit:
        limit = f"request's {TIMEOUT_HEADER}"
    is_queued = job.state is JobState.QUEUED
    return errors.PredictionTimeout(
        f"No answer within the {limit}",
        "it waited for a worker all the time" if is_queued else "a worker was still at it",
    )


def part_lost() -> errors.WorkerDied:
    """Return the error of the running jobs of a lease of which a part was lost: it may be any job's part."""
    return errors.WorkerDied("Worker died.", "a part of its answer was lost on the way")
