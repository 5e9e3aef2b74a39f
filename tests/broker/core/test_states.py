"""The tables of states, and that nothing moves against them."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest

from torchrelay.broker.core import states
from torchrelay.broker.core.states import JobState, WorkerState

Table = Mapping[Any, frozenset[Any]]  # states of jobs, or of workers

TABLES = [(states.JOB_MOVES, JobState), (states.WORKER_MOVES, WorkerState)]


@pytest.mark.parametrize(("table", "cls"), TABLES)
def test_every_state_has_its_row_and_a_way_to_the_one_end(table: Table, cls: type[StrEnum]) -> None:
    assert set(table) == set(cls)
    (end,) = (state for state, moves in table.items() if not moves)
    reached = {end}
    for _ in table:
        reached |= {state for state, moves in table.items() if moves & reached}
    assert reached == set(cls)


@pytest.mark.parametrize(("table", "cls"), TABLES)
def test_a_move_that_is_not_in_the_table_is_an_assertion_with_its_history(
    table: Table, cls: type[StrEnum]
) -> None:
    for old, moves in table.items():
        for new in cls:
            if new in moves:
                states.check_move(old, new, "history")  # type: ignore[arg-type]  # of the table's class
            else:
                with pytest.raises(AssertionError, match=f"illegal move {old} -> {new}: history"):
                    states.check_move(old, new, "history")  # type: ignore[arg-type]


def test_only_workers_on_their_way_or_at_work_count_towards_a_target() -> None:
    assert {WorkerState.STARTING, WorkerState.READY} == states.LIVE
