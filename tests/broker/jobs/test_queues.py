"""The row of one version's jobs, and what fits into one batch."""

from collections.abc import Iterator
from math import inf
from typing import Any  # Job's own fields, by name

import pytest

from torchrelay.broker.core.states import JobState
from torchrelay.broker.jobs import queues
from torchrelay.broker.jobs.queues import Job, Lease, PlainQueue, Row
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.wire.codec import FRAMES_LIMIT
from torchrelay.shared.wire.fields import BATCH_LIMIT_JOBS
from torchrelay.shared.wire.presence import SLOWEST_BYTES_PER_S

RECORD = VersionRecord(
    "m", "1.0", "m.mar", "sha", 1, "handler", "python", 1, 1, 4, 100, 120, 120, loaded_at_startup=False
)


def job(number: int, *, expires_at: float = 100.0, frames: int = 0, meta: bytes = b"", **fields: Any) -> Job:
    given = {"names_version": False, "is_describe": False, **fields}
    return Job(b"g", number, ("m", "1.0"), meta=meta, frames=(b"",) * frames, size=0,
               arrived_at=float(number), expires_at=expires_at, **given)  # fmt: skip


def queue(*jobs: Job) -> PlainQueue:
    made = PlainQueue(RECORD, lambda queue, record, now: inf)
    for one in jobs:
        made.push(one)
    return made


def numbers(jobs: Any) -> list[int]:  # any collection of them
    return [one.number for one in jobs]


def test_jobs_go_in_the_order_in_which_they_came() -> None:
    waiting = queue(job(1), job(2), job(3))
    assert numbers(waiting.take(2)) == [1, 2]
    assert numbers(waiting.jobs) == [3]


def test_what_comes_back_stands_where_it_was() -> None:
    waiting = queue(*map(job, range(1, 5)))
    first = waiting.take(2)
    waiting.push(job(5))
    waiting.put_back(first)
    assert numbers(waiting.jobs) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("count", [1, 9])
def test_jobs_are_removed_wherever_they_stand(count: int) -> None:
    jobs = [job(number) for number in range(1, 21)]
    waiting = queue(*jobs)
    waiting.remove(*jobs[5 : 5 + count])
    assert numbers(waiting.jobs) == [*range(1, 6), *range(6 + count, 21)]


def test_only_jobs_at_the_head_expire() -> None:
    waiting = queue(job(1, expires_at=5.0), job(2, expires_at=9.0), job(3, expires_at=5.0))
    assert numbers(waiting.take_expired(4.9)) == []
    assert numbers(waiting.take_expired(5.0)) == [1]
    assert numbers(waiting.take_expired(9.0)) == [2, 3]
    assert len(waiting) == 0


def test_those_that_had_waited_before_do_not_count_towards_the_limit() -> None:
    assert queue(job(1), job(2, was_held=True)).bounded == 1


@pytest.mark.parametrize("held", [True, False])
def test_what_is_held_is_counted_however_it_comes_and_goes(held: bool) -> None:
    jobs = [job(number, was_held=held) for number in range(1, 9)]
    waiting = queue(*jobs)
    taken = waiting.take(2)
    waiting.remove(jobs[4], jobs[6])
    waiting.put_back(taken)
    waiting.take_expired(inf)
    assert waiting.row.held == 0
    waiting.push(job(9, was_held=held))
    assert (waiting.row.held, waiting.bounded) == ((1, 0) if held else (0, 1))


class CountingRow(Row):
    """Counts the jobs that are looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Job]:
        for one in super().__iter__():
            self.looks += 1
            yield one


def test_what_a_refusal_looks_at_and_who_leaves_takes_no_longer_however_many_wait() -> None:
    jobs = [job(number, was_held=number > 9_000) for number in range(1, 10_001)]
    waiting = queue(*jobs)
    row = waiting.row = CountingRow(waiting.row)
    assert (len(waiting), waiting.bounded, waiting.oldest) == (10_000, 9_000, jobs[0])
    for one in jobs[5_000:]:
        waiting.remove(one)
    assert len(waiting.take(2)) == 2
    assert row.looks <= 4


def test_a_describe_job_travels_alone() -> None:
    jobs = [job(1), job(2, is_describe=True), job(3)]
    assert numbers(queues.fitting(jobs, 3)) == [1]
    assert numbers(queues.fitting(jobs[1:], 3)) == [2]


def test_a_batch_is_no_larger_than_a_message_may_be() -> None:
    half = FRAMES_LIMIT // 2
    assert numbers(queues.fitting([job(1, frames=half), job(2, frames=half), job(3, frames=1)], 3)) == [1, 2]
    large = b"x" * (queues.METAS_LIMIT_BYTES // 2 + 1)
    assert numbers(queues.fitting([job(1, meta=large), job(2, meta=large)], 2)) == [1]
    assert numbers(queues.fitting([job(1, meta=2 * large)], 2)) == [1], (
        "one that is too large goes all the same"
    )
    many = [job(number) for number in range(1, BATCH_LIMIT_JOBS + 2)]
    assert len(queues.fitting(many, 2 * BATCH_LIMIT_JOBS)) == BATCH_LIMIT_JOBS


def test_a_job_may_run_again_unless_its_answer_has_begun_or_it_was_tried_enough() -> None:
    waiting = queue()
    lease = Lease(1, waiting, 9000, (), is_describe=False, assigned_at=0.0, beat=0)
    assert waiting.may_run_again(job(1), lease, 2)
    assert not waiting.may_run_again(job(1, parts=1), lease, 2)
    assert not waiting.may_run_again(job(1, attempt=2), lease, 2)


def test_a_lease_with_large_jobs_takes_its_time_on_the_way() -> None:
    small, large = job(1), job(2)
    large.size = 10 * SLOWEST_BYTES_PER_S
    for one, by in ((small, 0.1), (large, 10.1)):
        lease = Lease(1, queue(), 9000, (one,), is_describe=False, assigned_at=0.0, beat=0)
        assert lease.has_crossed(by)
        assert not lease.has_crossed(by - 0.11)


def test_a_job_moves_by_the_table_alone() -> None:
    one = job(1)
    one.move(JobState.RUNNING)
    one.move(JobState.QUEUED)
    one.move(JobState.ENDED)
    with pytest.raises(AssertionError, match="illegal move ended -> queued"):
        one.move(JobState.QUEUED)
