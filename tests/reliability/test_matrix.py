"""The fault matrix on real processes: each fault of each kind of process, under load, one after another.

`make test` runs the cells that are most unlike each other; `make matrix` all of them, and writes what it
measured where MATRIX_RESULTS says.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.reliability import namespaces
from tests.reliability.cells import FAULTS, MATRIX, TARGETS, Cell, cells
from tests.reliability.lending import Lent, missing
from tests.reliability.running import CellResult, run_cell

RESULTS = os.environ.get("MATRIX_RESULTS")

_marks = {True: (), False: (pytest.mark.matrix,)}
CASES = [pytest.param(cell, id=cell.name, marks=_marks[cell.is_quick]) for cell in cells()]


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lent]:
    if why := namespaces.why_not():
        pytest.skip(why)
    made = Lent(tmp_path_factory.mktemp("matrix"))
    yield made
    made.close()


def record(result: CellResult) -> None:
    if RESULTS:
        with Path(RESULTS).open("ab") as file:
            file.write(msgspec.json.encode(result) + b"\n")


@pytest.mark.integration
@pytest.mark.parametrize("cell", CASES)
def test_a_fleet_keeps_its_promises_whatever_fails(cell: Cell, lent: Lent) -> None:
    if why := missing(cell):
        pytest.skip(why)
    hosts = lent.whole()
    try:
        hosts.get_ready()
        result = run_cell(hosts, cell)
    except BaseException:
        lent.give_up()
        raise
    record(result)
    if result.faults:
        lent.give_up()
    assert not result.faults, "\n".join(result.faults)


def test_the_matrix_has_a_run_or_a_reason_for_every_fault_of_every_target() -> None:
    assert set(MATRIX) == {(fault, target) for fault in FAULTS for target in TARGETS}


def test_a_reason_is_never_given_beside_a_run() -> None:
    runs = {(cell.fault, cell.target) for cell in cells()}
    assert all((pair in runs) == isinstance(MATRIX[pair], Cell) for pair in MATRIX)
    assert all(isinstance(value, Cell) or len(value) > 10 for value in MATRIX.values())
