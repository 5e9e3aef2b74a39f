"""Which jobs are taken in, and which are refused at once, and why. Pure."""

from collections.abc import Callable

from torchrelay.broker.core.answers import Answers, Gateway, no_worker
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.jobs import batching
from torchrelay.broker.jobs.deadlines import Deadlines
from torchrelay.broker.jobs.dispatch import Dispatch
from torchrelay.broker.jobs.isolation import Isolation
from torchrelay.broker.jobs.queues import Job, VersionQueue
from torchrelay.broker.jobs.waiting_jobs import WaitingJobs
from torchrelay.broker.models.catalog import Catalog
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared import errors
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame


class Admission:
    """Puts new jobs into their queues."""

    def __init__(
        self,
        waiting: WaitingJobs,
        catalog: Catalog,
        fleet: Fleet,
        stats: Stats,
        settings: BrokerSettings,
        *,
        dispatch: Dispatch,
        isolation: Isolation,
        deadlines: Deadlines,
        answers: Answers,
        comes_back_until: float,
        real_time: Callable[[float], float],
        new_sequence_id: Callable[[], str],
    ) -> None:
        self._waiting = waiting
        self._catalog = catalog
        self._fleet = fleet
        self._stats = stats
        self._settings = settings
        self._dispatch = dispatch
        self._isolation = isolation
        self._deadlines = deadlines
        self._answers = answers
        #: What ran on workers before a restart comes back as waiting until then: it had been accepted.
        self._comes_back_until = comes_back_until
        #: Turns a time of the core into real time, which is what clients wait in.
        self._real_time = real_time
        self._new_sequence_id = new_sequence_id

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
        queue = self._dispatch.queue_for(record)
        if queue.suspicions.known and self._isolation.refuses(queue, record, job, now):
            return None
        if why_not := self._why_not(record, queue, job, now):
            self._answers.refuse(job, no_worker(job, why_not))
            return None
        if record.config.client_timeout_ms:
            job.given_up_at = self._real_time(now) + record.config.client_timeout_ms / 1000
            self._deadlines.add(job.given_up_at, job)
        if queue.futile_waits:
            is_running = any(worker.leases for worker in self._fleet.of_version(key))
            queue.futile_waits = batching.learn_from_arrival(queue.futile_waits, is_running=is_running)
        queue.push(job)
        self._waiting.queued_bytes += job.size
        self._waiting.changed[key] = None
        return None

    def _why_not(self, record: VersionRecord, queue: VersionQueue, job: Job, now: float) -> str:
        """Say why a job can't be taken in; empty if it can."""
        if record.min_workers == 0 and not self._fleet.live(queue.key):
            return "it has been scaled to 0 workers"
        if self._fleet.has_given_up(queue.key) and not self._fleet.live(queue.key):
            return f"its workers failed too often: {self._fleet.condition(queue.key).last_error}"
        queued_bytes = self._waiting.queued_bytes
        if queued_bytes and queued_bytes + job.size > self._settings.queue_limit_bytes:
            return f"the queues hold {queued_bytes} bytes, the limit of queue_limit_bytes"
        comes_back = job.was_held or now < self._comes_back_until
        waiting = len(queue.row)
        if not comes_back and record.config.use_job_ticket and self._places(record, queue) <= waiting:
            return "no worker is idle, and it takes requests only for one that is (useJobTicket)"
        if job.sequence:
            return queue.why_not(job, record, is_bounded=not comes_back)
        if comes_back:
            return ""
        limit = record.config.job_queue_size or self._settings.job_queue_size
        if waiting >= limit:
            self._dispatch.dispatch(queue.key, now)  # a burst fills the workers first, then the queue
        if len(queue.row) >= limit and queue.bounded >= limit:
            return f"its queue holds {len(queue)} jobs, the limit of job_queue_size"
        return ""

    def _places(self, record: VersionRecord, queue: VersionQueue) -> int:
        """Return how many jobs could go to a worker at once."""
        return sum(
            batching.room(record, leases=len(worker.leases))
            for worker in self._fleet.ready(queue.key)
            if not worker.is_cut and worker.worker_id != queue.kept_worker
        )
