"""When a batch goes, and to whom. Pure functions over numbers; `core` gathers the numbers."""

from collections.abc import Iterable
from dataclasses import dataclass

#: Delays that nobody shared, after which a lone client isn't made to wait any more.
FUTILE_WAITS_LIMIT = 8
#: A second batch is sent ahead only where batches are shorter than this: for long ones it is better to
#: decide late, when it is known which worker is free first.
SEND_AHEAD_LIMIT_S = 0.5
#: Weight of the newest batch in the average service time.
SERVICE_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A ready worker: how many leases it holds, and when it was last given one."""

    worker_id: int
    leases: int
    last_assigned_at: float
    #: Its node has not been heard for longer than a beat; it comes last.
    is_suspect: bool


def batch_wait(
    *, depth: int, batch_size: int, max_batch_delay_s: float, head_age_s: float, futile_waits: int
) -> float:
    """Return how many seconds a free worker should wait for more jobs; 0 or less means go.

    Waiting ends with a full batch, with the delay (counted from the oldest job's arrival), or when
    experience says that it is in vain: after FUTILE_WAITS_LIMIT delays in a row that nobody shared,
    the next lone job goes at once. `learn_from_batch` and `learn_from_arrival` keep that experience.
    """
    if depth >= batch_size or futile_waits >= FUTILE_WAITS_LIMIT:
        return 0.0
    return max_batch_delay_s - head_age_s


def learn_from_batch(futile_waits: int, *, count: int, batch_size: int) -> int:
    """Return the new number of futile waits after a batch of `count` jobs has left."""
    if batch_size == 1:
        return 0
    return min(futile_waits + 1, FUTILE_WAITS_LIMIT) if count == 1 else 0


def learn_from_arrival(futile_waits: int, *, is_running: bool) -> int:
    """Return the new number of futile waits after an arrival.

    A job that comes while another of its model runs could have shared its batch: clients are
    concurrent, so waiting helps again.
    """
    return 0 if is_running else futile_waits


def choose_worker(
    candidates: Iterable[Candidate], *, depth: int, batch_size: int, service_s: float
) -> int | None:
    """Return the worker that gets the next batch, or None if the jobs should wait here.

    An idle worker first, the one that ran last (its caches are warm), suspects last. When all are
    busy, one full batch is sent ahead to a worker with one lease, so that it need not wait for the
    round trip; never where batches take long, or before it is known how long they take.
    """
    best = min(
        candidates,
        key=lambda c: (c.leases, c.is_suspect, -c.last_assigned_at, c.worker_id),
        default=None,
    )
    if best is None or best.leases > 1:
        return None
    if best.leases == 1 and not (depth >= batch_size and 0 < service_s < SEND_AHEAD_LIMIT_S):
        return None
    return best.worker_id


def smooth_service(average_s: float, latest_s: float) -> float:
    """Return the new average service time."""
    return latest_s if average_s == 0 else average_s + SERVICE_WEIGHT * (latest_s - average_s)
