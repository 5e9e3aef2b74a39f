"""The invariant checker: what it lets pass, and that each broken promise is told."""

from collections import Counter

import pytest

from tests.reliability import checker
from tests.reliability.checker import Holding
from tests.reliability.numbered_load import Outcome, judge

BODY = b"7 "
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n7 "


def answered(number: int, took_s: float = 0.1) -> Outcome:
    return Outcome(number, float(number), took_s, "answered", 200)


def test_requests_that_each_end_once_in_time_are_fine() -> None:
    assert checker.of_requests([answered(1), answered(2, 8.9)], 2, 8.0, ()) == []


def test_a_request_that_never_ends_or_ends_twice_is_told() -> None:
    assert checker.of_requests([answered(1)], 2, 8.0, ())
    assert checker.of_requests([answered(1), answered(1)], 1, 8.0, ())


def test_a_late_end_is_told_whatever_it_is() -> None:
    (fault,) = checker.of_requests([answered(1, 9.1)], 1, 8.0, ())
    assert "9.1 s" in fault
    late = Outcome(1, 0.0, 12.0, "refused", 503)
    assert checker.of_requests([late], 1, 8.0, {"refused"})


def test_an_end_is_told_unless_it_is_tolerated() -> None:
    for end in ("wrong", "refused", "broken", "not taken", "twice", "none"):
        outcome = Outcome(1, 0.0, 0.1, end)
        assert checker.of_requests([outcome], 1, 8.0, ())
        assert not checker.of_requests([outcome], 1, 8.0, {end})


def test_what_comes_on_a_connection_is_one_answer_and_its_own() -> None:
    assert judge(ANSWER, BODY)[0] == "answered"
    assert judge(ANSWER.replace(b"\n7", b"\n8"), BODY)[0] == "wrong"
    assert judge(ANSWER + ANSWER, BODY)[0] == "twice"
    assert judge(ANSWER[:-1], BODY)[0] == "broken"
    assert judge(b"", BODY)[0] == "broken"
    assert judge(ANSWER.replace(b"200 OK", b"503 No"), BODY)[:2] == ("refused", 503)


def test_runs_are_counted_by_number_and_told_above_two() -> None:
    runs = checker.runs_of("1 10\n2 10\n2 11\nnonsense\n9 10\n2 12\n", 1, 9)
    assert runs == Counter({1: 1, 2: 3})
    assert checker.of_runs({1: 2}) == []
    assert checker.of_runs(runs)


def test_the_registry_has_what_was_acknowledged_and_nothing_that_nobody_asked_for() -> None:
    assert checker.of_registrations({"a", "b"}, {"a"}, {"b", "c"}) == []
    assert checker.of_registrations({"b"}, {"a"}, {"b"})
    assert checker.of_registrations({"a", "x"}, {"a"}, set())


def test_what_is_left_behind_is_told() -> None:
    before = {"node": Holding(2, 30, 50_000_000)}
    assert checker.of_holdings(before, {"node": Holding(2, 35, 60_000_000)}) == []
    for left in (Holding(3, 30, 50_000_000), Holding(2, 300, 50_000_000), Holding(2, 30, 500_000_000)):
        assert checker.of_holdings(before, {"node": left})


def test_an_outage_is_the_longest_time_without_an_answer() -> None:
    outcomes = [answered(1), answered(2), Outcome(3, 3.0, 0.1, "refused"), answered(6)]
    assert checker.outage_s(outcomes) == pytest.approx(4.0)
