"""Failures of a version's workers: how many in a row, when the next may start, and when to give up. Pure."""

from dataclasses import dataclass, field

from torchrelay.broker.core.states import WorkerState
from torchrelay.broker.fleet.worker import FleetWorker

#: Seconds before the next start, by failures in a row; TorchServe's sequence behind a first try at once.
BACKOFF_S = (0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597)
#: A worker that has been ready so long has proved itself: earlier failures are forgiven.
PROVEN_AFTER_S = 30.0


@dataclass(slots=True)
class Condition:
    """The failures of one version's workers, and what restarts depend on."""

    failures: int = 0
    first_failure_at: float = 0.0
    last_failure_at: float = 0.0
    #: The latest failure came when the version had failed for too long.
    has_given_up: bool = False
    next_start_at: float = 0.0
    last_error: str = ""
    is_out_of_memory: bool = False
    #: It got no further than installing the packages that its archive names.
    failed_installing: bool = False
    #: Workers that have failed and not been replaced yet, oldest first.
    failed_workers: list[FleetWorker] = field(default_factory=list)
    #: Failures by node name; other nodes come first.
    failed_on: dict[str, int] = field(default_factory=dict)

    def count_failure(
        self,
        worker: FleetWorker,
        reason: str,
        now: float,
        *,
        window_s: float,
        out_of_memory: bool,
        is_excused: bool,
    ) -> None:
        """Remember that a worker ended unasked, and set when the next may start.

        One that fails when the version has failed for `window_s` is the last. With `is_excused` it was a
        request that ended it, of a version that answers others: the next starts at once.
        """
        was_ready = worker.state is not WorkerState.STARTING
        is_installing = not was_ready and (worker.installs_only or worker.note == "installing")
        self.last_error = worker.note = reason
        self.is_out_of_memory = out_of_memory
        self.failed_workers.append(worker)
        if is_excused:
            return
        if was_ready and now - worker.since >= PROVEN_AFTER_S:
            self.failures = 0
        if self.failures == 0:
            self.first_failure_at = now
        self.failures += 1
        # A worker that never became ready waits from the first failure on.
        step = self.failures - 1 if was_ready else self.failures
        self.next_start_at = now + BACKOFF_S[min(step, len(BACKOFF_S) - 1)]
        self.last_failure_at = now
        self.has_given_up = now - self.first_failure_at >= window_s
        self.failed_installing = is_installing
        self.failed_on[worker.node_name] = self.failed_on.get(worker.node_name, 0) + 1

    def count_success(self, worker: FleetWorker) -> None:
        """Forgive failures if a worker started since has answered a batch; an older one proves nothing."""
        if self.failures and worker.started_at >= self.last_failure_at:
            self.failures = 0
            self.failed_on.clear()
