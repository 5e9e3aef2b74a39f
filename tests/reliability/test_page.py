"""The page of reliability is written from what was measured."""

import msgspec

from tests.reliability import page
from tests.reliability.cells import cells
from tests.reliability.running import CellResult


def result(fault: str, target: str, *faults: str, **ends: int) -> CellResult:
    return CellResult(fault, target, faults, sum(ends.values()), ends, 0, 0.1, 1.25, 3.0, 2.5, 4, 0)


def test_the_committed_page_is_what_its_results_make() -> None:
    assert page.TARGET.read_text() == page.page(), "python -m tests.reliability.page"


def test_the_committed_matrix_is_whole_and_broke_no_promise() -> None:
    lines = page.read(page.MATRIX_RESULTS).splitlines()
    results = [msgspec.json.decode(line, type=CellResult) for line in lines]
    run = {(one.fault, one.target) for one in results}
    assert {(one.fault, one.target) for one in cells()} == run
    assert not [one for one in results if one.faults]


def test_a_cell_tells_times_losses_and_broken_promises() -> None:
    text = page.render(
        [result("SIGKILL", "worker", answered=9), result("hang", "worker", "late", answered=8, refused=1)],
        None,
        None,
    )
    (kill,) = [line for line in text.splitlines() if line.startswith("| SIGKILL |")]
    (hang,) = [line for line in text.splitlines() if line.startswith("| hang |")]
    assert "| 1.2 / 2.5 |" in kill
    assert "| **!** 1.2 / 2.5 (1r of 9) |" in hang
