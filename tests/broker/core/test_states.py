"""The tables of states, and that nothing moves against them."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import product
from typing import Any

import pytest

from torchrelay.broker.core import states
from torchrelay.broker.core.states import JobState, WorkerState
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.jobs.queues import Job

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


def test_a_move_that_is_not_in_the_table_is_an_assertion_with_its_history() -> None:
    job = Job(b"g", 1, ("m", "1.0"), False, False, b"", (), 0, 0.0, 9.0)
    worker = FleetWorker(9000, ("m", "1.0"), "sha", "cpu", "n", b"n", WorkerState.STARTING, 5.0, 5.0)
    moved: list[tuple[Job | FleetWorker, Callable[[Any], None], Table]] = [
        (job, job.move, states.JOB_MOVES),
        (worker, lambda new: worker.move(new, 6.0), states.WORKER_MOVES),
    ]
    for subject, move, table in moved:
        for old, new in product(table, table):
            subject.state = old
            if new in table[old]:
                move(new)
                assert subject.state is new
            else:
                with pytest.raises(
                    AssertionError, match=f"illegal move {old} -> {new}: {type(subject).__name__}"
                ):
                    move(new)


def test_only_workers_on_their_way_or_at_work_count_towards_a_target() -> None:
    assert {WorkerState.STARTING, WorkerState.READY, WorkerState.UNREADY} == states.LIVE
