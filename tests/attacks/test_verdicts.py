import pytest

from tests.attacks import verdicts
from tests.attacks.verdicts import HonestRequests, Measurements, Memory, Outcome

QUIET = HonestRequests(100, {}, 0.01, 0.02)
SMALL = Memory("broker", 50_000_000, 60_000_000, 55_000_000)


def measured(
    during: HonestRequests = QUIET,
    after: HonestRequests = QUIET,
    memory: Memory = SMALL,
    ended: tuple[str, ...] = (),
    log_bytes: int = 0,
    breaches: tuple[str, ...] = (),
) -> Measurements:
    return Measurements(QUIET, during, after, (memory,), ended, log_bytes, breaches)


def test_an_attack_that_nobody_notices_is_held() -> None:
    assert not verdicts.faults(measured())


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (measured(HonestRequests(100, {"503": 1}, 0.01, 0.02)), "1 honest requests failed (503 x 1)"),
        (measured(HonestRequests(100, {}, 0.01, 1.01)), "p99 above 1 s"),
        (measured(HonestRequests()), "no honest request was sent"),
        (measured(after=HonestRequests(100, {"none": 2}, 0.01, 0.02)), "5 s later 2 failed (none x 2)"),
        (measured(after=HonestRequests(100, {}, 0.01, 0.3)), "5 s later p99 was 300 ms"),
        (measured(memory=Memory("broker", 1, 513_000_000, 1)), "broker held 513 MB"),
        (measured(memory=Memory("broker", 1, 140_000_000, 130_000_000)),
         "5 s later broker held 130 MB, 0 MB before"),
        (measured(ended=("node",)), "node ended"),
        (measured(log_bytes=30_000_000), "logs grew by 30 MB"),
        (measured(breaches=("a secret was read",)), "a secret was read"),
    ],
)  # fmt: skip
def test_each_thing_that_an_attack_reached_is_named(found: Measurements, fault: str) -> None:
    assert verdicts.faults(found) == [fault]


def test_what_members_meet_at_the_brokers_port_counts_by_the_slowest() -> None:
    quick, slow = HonestRequests(9, {}, 0.1, 0.2, 0.9), HonestRequests(9, {}, 0.1, 0.2, 5.1)
    failed = HonestRequests(9, {"no answer": 1}, 0.1, 0.2, 0.2)
    assert not verdicts.faults(Measurements(QUIET, QUIET, QUIET, questions=quick, joins=quick))
    assert verdicts.faults(Measurements(QUIET, QUIET, QUIET, questions=slow, joins=slow)) == [
        "a node's questions: one took 5.1 s", "hosts' joining: one took 5.1 s",
    ]  # fmt: skip
    assert verdicts.faults(Measurements(QUIET, QUIET, QUIET, joins=failed)) == [
        "hosts' joining: 1 of 9 failed (no answer x 1)"
    ]


def test_a_machine_that_was_slow_before_may_be_as_slow_after() -> None:
    slow = HonestRequests(100, {}, 0.1, 0.4)
    assert not verdicts.faults(Measurements(slow, slow, slow))


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (51, 3), (75, 3), (76, 4), (99, 4), (100, 4)])
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(percent: float, value: float) -> None:
    assert verdicts.percentile([4, 1, 3, 2], percent) == value


def test_requests_count_in_the_stretch_in_which_they_began() -> None:
    outcomes = [Outcome(0.9, 5.0), Outcome(1.0, 0.1), Outcome(1.9, 0.2, "503"), Outcome(2.0, 9.0)]
    assert verdicts.honest(outcomes, 1.0, 2.0) == HonestRequests(2, {"503": 1}, 0.1, 0.2, 0.2)


def test_a_stretch_without_requests_has_figures_all_the_same() -> None:
    assert verdicts.honest([], 0.0, 1.0) == HonestRequests(0, {}, 0.0, 0.0)
