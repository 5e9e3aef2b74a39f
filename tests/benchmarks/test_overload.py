"""An overloaded server, small enough for a test: nothing is timed here, but all that must hold holds."""

from pathlib import Path

import pytest

from benchmarks import overload
from benchmarks.overload import LOAD_GENERATOR, Figures, OverloadPlan

MS = 1_000_000


@pytest.mark.integration
def test_what_waits_is_answered_the_surplus_refused_and_the_places_of_who_leaves_are_others(
    tmp_path: Path,
) -> None:
    plan = OverloadPlan(
        requests=60, surplus=20, burst=10, leavers=3, leave_at_once=30, batch_size=4, gateway_processes=1
    )
    figures = overload.measure(tmp_path, plan)
    # On a machine that holds up a part of the server for half a second some may be let in beside the limit.
    accepted = 68 + figures.above_limit
    assert accepted - 30 <= figures.accepted <= accepted
    assert (figures.answered, figures.wrong, figures.refused_places) == (figures.accepted, 0, 0)
    assert len(figures.refusals_s) + len(figures.burst_refusals_s) + figures.above_limit == 30
    assert len(figures.places_s) == 3
    assert len(figures.places_at_once_s) == 30
    # 15 batches of 0.2 s or a little more: the service rate is known.
    assert all(3 <= seconds <= 60 for seconds in figures.retry_after_s)
    assert list(figures.memory) == ["before", "while all wait", "after"]
    assert {"broker", "gateway process", "model worker"} <= set(figures.memory["after"])
    assert {"broker", "gateway process", LOAD_GENERATOR} <= set(figures.without_cpu_s)


def test_a_place_is_free_for_the_one_that_left_first_when_one_less_waits() -> None:
    left_ns = [0, 1 * MS, 2 * MS, 3 * MS]
    seen = [(5 * MS, 10), (7 * MS, 9), (9 * MS, 6)]
    freed = overload.freed_after_s(left_ns, seen, 10)
    assert freed == pytest.approx([0.007, 0.008, 0.007, 0.006])


def test_the_table_has_the_largest_process_of_each_kind_at_each_moment() -> None:
    figures = Figures(
        accepted=12_000, answered=12_000, refusals_s=[0.001] * 98 + [0.004, 0.05], retry_after_s={20, 21},
        places_s=[0.002], answered_in_s=20.04, burst_refusals_s=[0.03], above_limit=7,
        places_at_once_s=[0.02], read_late_s=[0.003], surplus_came_s=5.0,
        without_cpu_s={"broker": 0.25, "node": 0.5, LOAD_GENERATOR: 0.125},
        memory={"before": {"broker": 50 << 20}, "after": {"broker": 61 << 20}},
    )  # fmt: skip
    table = overload.table(figures)
    assert "| broker | 50 | 61 |" in table
    assert "| accepted, answered, wrong answers | 12,000, 12,000, 0 |" in table
    assert "| refused, let in above `job_queue_size` | 101, 7 |" in table
    assert "| a refusal takes, 200 a second | 1.0, 4.0, 50.0 ms |" in table
    assert "| a refusal takes, 1 at once | 30.0, 30.0, 30.0 ms |" in table
    assert "| 20 to 21 s |" in table
    assert "broker 0.25 s, this program 0.12 s." in table


def test_the_page_has_a_place_for_the_figures() -> None:
    page = overload.PAGE.read_text()
    new = overload.with_figures(page, "| what | figure |")
    assert "| what | figure |" in new
    assert new.partition(overload.FIGURES)[0] == page.partition(overload.FIGURES)[0]
    assert overload.with_figures(new, "| what | figure |") == new
