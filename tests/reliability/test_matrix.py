"""The fault matrix on real processes: each fault of each kind of process, under load, one after another.

`make test` runs the cells that are most unlike each other; `make matrix` all of them, and writes what it
measured where MATRIX_RESULTS says.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.reliability import namespaces, striking
from tests.reliability.cells import FAULTS, MATRIX, TARGETS, Cell, cells
from tests.reliability.hosts import FRONT, RACKS, Hosts, can_mount, small_disk
from tests.reliability.running import CellResult, run_cell
from tests.support import eventually

#: Small enough to be filled in a moment.
DISK_MB = 48
RESULTS = os.environ.get("MATRIX_RESULTS")

_marks = {True: (), False: (pytest.mark.matrix,)}
CASES = [pytest.param(cell, id=cell.name, marks=_marks[cell.is_quick]) for cell in cells()]


class Lent:
    """The fleet that cells share, made anew where one has left it broken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0
        self._open = contextlib.ExitStack()
        self._hosts: Hosts | None = None

    def whole(self) -> Hosts:
        if self._hosts is None:
            self._hosts = self._make()
        return self._hosts

    def _make(self) -> Hosts:
        self._made += 1
        folder = self._folder / f"fleet-{self._made}"
        folder.mkdir()
        network = self._open.enter_context(namespaces.namespaces(FRONT, *RACKS))
        hosts = Hosts(folder, network)
        if not can_mount():
            for place in (hosts.state, hosts.cache(RACKS[0])):
                self._open.enter_context(small_disk(place, DISK_MB))
        self._open.callback(hosts.stop)
        hosts.start()
        return hosts

    def give_up(self) -> None:
        """End the fleet; show what its parts said."""
        if self._hosts is not None:
            print(self._hosts.output()[-20_000:])  # noqa: T201  # shown by pytest
            self.close()

    def close(self) -> None:
        self._hosts = None
        self._open.close()


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lent]:
    if why := namespaces.why_not():
        pytest.skip(why)
    made = Lent(tmp_path_factory.mktemp("matrix"))
    yield made
    made.close()


def missing(cell: Cell) -> str:
    """Say what a cell needs that isn't here, or nothing."""
    match cell.needs:
        case "memory cgroup":
            return striking.has_memory_groups()
        case "mount":
            return can_mount()
        case "keys":
            return "members have no keys on a plain connection"
    return ""


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
        eventually(hosts.is_whole)
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
