"""How many jobs a worker gets, and when. Pure functions over numbers; `jobs` gathers them."""

from math import ceil

from torchrelay.broker.models.records import VersionRecord

#: Batches are sent ahead only where they are shorter than this: for long ones it is better to decide late,
#: when it is known which worker is free first.
SEND_AHEAD_LIMIT_S = 0.5
#: Jobs that are sent ahead at most.
AHEAD_LIMIT_JOBS = 32
#: About what it costs, in all processes together, to wake up one worker more. What one worker runs in less
#: is not shared out.
WAKE_S = 0.0003
#: Jobs that an asynchronous handler is given at the same time. TorchServe sends it all there are; bounded
#: here so that a second worker gets its share and the queue's limit means something.
ASYNC_LEASES_LIMIT = 256
#: See `isolated_count`.
ALONE_SHARE = 0.25
#: Weight of the newest batch in the average service time.
SERVICE_WEIGHT = 0.2


def concurrent_leases(record: VersionRecord) -> int:
    """Return how many leases of one job each a worker runs at once; 0 where it runs batches in order.

    Twice the batch size for sequences in continuous batching is TorchServe's.
    """
    config = record.config
    if config.async_communication:
        return max(record.batch_size, ASYNC_LEASES_LIMIT)
    if config.continuous_batching:
        return record.batch_size * (2 if config.sequence_batching else 1)
    return 0


def room(record: VersionRecord, *, leases: int) -> int:
    """Return how many jobs a worker that has so many leases could take at once."""
    concurrent = concurrent_leases(record)
    return concurrent - leases if concurrent else record.batch_size * (not leases)


def capacity(record: VersionRecord, *, workers: int) -> int:
    """Return how many jobs so many workers run at a time."""
    return workers * (concurrent_leases(record) or record.batch_size)


def lease_limit(*, batch_size: int, service_s: float, ahead_s: float) -> int:
    """Return how many batches a worker that runs them in order may have: one runs, and others are sent ahead.

    As many as it should run within `ahead_s`, so that it need not wait for messages; one at least, but none
    where batches take long, or before it is known how long.
    """
    if not 0 < service_s < SEND_AHEAD_LIMIT_S:
        return 1
    return 1 + max(1, min(int(ahead_s / service_s), AHEAD_LIMIT_JOBS // batch_size))


def together(*, slowest_s: float) -> int:
    """Return how many of the batches that could go now are for one worker, before another gets some.

    As many as it runs in the time that waking up another takes; one where that isn't known.
    """
    return max(1, int(WAKE_S / slowest_s)) if slowest_s > 0 else 1


def smooth_service(average_s: float, latest_s: float, *, was_whole: bool = True) -> float:
    """Return the new average service time.

    Where not all jobs were wanted to the end the handler may have left some out: it would have taken as long
    at least, and only that is learnt. So what clients give up makes nothing look fast.
    """
    if average_s == 0:
        return latest_s if was_whole else 0.0
    if not was_whole and latest_s < average_s:
        return average_s
    return average_s + SERVICE_WEIGHT * (latest_s - average_s)


def isolated_count(*, suspects: int, waited_share: float) -> int:
    """Return how many suspects are run at a time, with nothing else beside them.

    One, since then it is known who it was if their worker ends. Where the next of them has waited for more
    than ALONE_SHARE of the time that it may, half of them: most often it was none of them, but somebody who
    killed the worker, and halving finds one, too. That is as far as a worker takes so many.
    """
    return 1 if waited_share < ALONE_SHARE else ceil(suspects / 2)
