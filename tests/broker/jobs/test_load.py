"""Whether a job can be answered in time, as a function of numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.broker.jobs import load
from torchrelay.broker.jobs.load import QueueLoad

SECONDS = st.floats(0, 1000, allow_nan=False)
LOADS = st.builds(
    QueueLoad,
    depth=st.integers(0, 200),
    batch_size=st.integers(1, 16),
    free_in_s=st.lists(SECONDS, max_size=8).map(sorted),
    service_s=SECONDS,
)


def deeper(one: QueueLoad, more: int) -> QueueLoad:
    return QueueLoad(
        depth=one.depth + more, batch_size=one.batch_size, free_in_s=one.free_in_s, service_s=one.service_s
    )


@given(LOADS, SECONDS, st.booleans())
def test_what_an_idle_worker_could_take_is_never_refused(
    one: QueueLoad, left_s: float, must_end: bool
) -> None:
    idle = one.batch_size * sum(free == 0 for free in one.free_in_s)
    if one.depth < idle:
        assert not one.comes_too_late(left_s, must_end=must_end)


@given(LOADS, SECONDS, st.booleans(), st.integers(0, 100))
def test_who_comes_too_late_would_do_so_behind_more_jobs_as_well(
    one: QueueLoad, left_s: float, must_end: bool, more: int
) -> None:
    assert deeper(one, more).begins_in_s >= one.begins_in_s * (1 - 1e-12)  # sums of floats
    if one.comes_too_late(left_s, must_end=must_end):
        assert deeper(one, more).comes_too_late(left_s, must_end=must_end)


@given(LOADS, SECONDS, SECONDS, st.booleans())
def test_who_waits_longer_is_not_refused_where_others_are_let_in(
    one: QueueLoad, left_s: float, more_s: float, must_end: bool
) -> None:
    if not one.comes_too_late(left_s, must_end=must_end):
        assert not one.comes_too_late(left_s + more_s, must_end=must_end)


@given(LOADS, SECONDS)
def test_nothing_is_refused_while_nothing_is_known(one: QueueLoad, left_s: float) -> None:
    unknown = QueueLoad(depth=one.depth, batch_size=one.batch_size, free_in_s=(), service_s=one.service_s)
    assert not unknown.comes_too_late(left_s, must_end=True)
    new = QueueLoad(
        depth=one.depth, batch_size=one.batch_size, free_in_s=[0.0] * len(one.free_in_s), service_s=0.0
    )
    assert not new.comes_too_late(left_s, must_end=True)


@pytest.mark.parametrize(
    ("depth", "begins_in_s"),
    # Two workers free after 0.5 s and 1.5 s, batches of two that take 2 s.
    [(0, 0.5), (1, 0.5), (2, 1.5), (3, 1.5), (4, 2.5), (6, 3.5), (8, 4.5)],
)
def test_batches_before_it_go_to_whichever_worker_is_free_first(depth: int, begins_in_s: float) -> None:
    one = QueueLoad(depth=depth, batch_size=2, free_in_s=[0.5, 1.5], service_s=2.0)
    assert one.begins_in_s == begins_in_s


def test_a_job_with_a_limit_must_end_within_it_and_others_only_begin() -> None:
    one = QueueLoad(depth=3, batch_size=1, free_in_s=[1.0], service_s=1.0)
    assert one.begins_in_s == 4.0
    assert not one.comes_too_late(4.0, must_end=False)
    assert one.comes_too_late(3.9, must_end=False)
    assert one.comes_too_late(5.0, must_end=True), "it would be ready at the last moment, if at all"
    assert not one.comes_too_late(4.0 + 1 + load.MARGIN, must_end=True)


def test_a_worker_that_is_far_behind_keeps_nobody_from_the_others() -> None:
    one = QueueLoad(depth=1, batch_size=1, free_in_s=[0.1, 60.0], service_s=0.2)
    assert one.begins_in_s == pytest.approx(0.3)


def test_a_batch_that_takes_longer_than_others_may_end_at_once() -> None:
    assert [load.left_of_batch_s(ran_s, 2.0) for ran_s in (0.0, 1.5, 2.0, 60.0)] == [2.0, 0.5, 0.0, 0.0]


def test_only_while_others_wait_is_a_job_hopeless() -> None:
    assert load.is_hopeless(left_s=0.5, service_s=1.0, others=1)
    assert not load.is_hopeless(left_s=0.5, service_s=1.0, others=0)
    assert not load.is_hopeless(left_s=1.5, service_s=1.0, others=1)


def test_a_backlog_is_shared_by_all_places() -> None:
    assert load.backlog_s(depth=30, capacity=6, service_s=2.0) == 10.0
    assert load.backlog_s(depth=30, capacity=0, service_s=2.0) == 0.0


@given(
    st.lists(st.lists(st.floats(0, 1), max_size=4), max_size=8), SECONDS, st.integers(0, 200),
    st.integers(1, 16), st.booleans(),
)  # fmt: skip
def test_a_job_begins_no_later_than_is_said_without_a_look_at_each_worker(
    shares_left: list[list[float]], service_s: float, depth: int, batch_size: int, is_in_order: bool
) -> None:
    """`shares_left` of an average batch, for each lease of each worker."""
    left_s = [[share * service_s for share in leases] for leases in shares_left]
    free_in_s = [sum(leases) for leases in left_s]
    if not is_in_order:  # with room for four on each
        batch_size = 1
        free_in_s = [one for leases in left_s for one in [*leases, *[0.0] * (4 - len(leases))]]
    exact = QueueLoad(
        depth=depth, batch_size=batch_size, free_in_s=sorted(free_in_s), service_s=service_s
    ).begins_in_s
    by = load.latest_begin_s(
        depth=depth, batch_size=batch_size, workers=len(left_s), service_s=service_s,
        fewest_leases=min(map(len, left_s), default=0),
    )  # fmt: skip
    assert exact <= by * (1 + 1e-12)
