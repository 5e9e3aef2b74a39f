"""The soak: its seed decides what strikes, and its lines fit a terminal."""

import random

from tests.reliability import soak
from tests.reliability.cells import cells
from tests.reliability.running import CellResult


def test_a_seed_is_one_schedule() -> None:
    def schedule(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [" ".join(cell.name for cell in soak.plan(rng, cells())) for _ in range(50)]

    assert schedule(1) == schedule(1) != schedule(2)


def test_lines_of_progress_fit_eighty_columns_and_say_what_was_broken() -> None:
    result = CellResult(
        "file descriptors + out of memory", "gateway process + gateway process", ("a" * 200,), 400,
        {"answered": 390, "refused": 10}, 1, 2.0, 1.0, 9.0, 8.0, 5, 1,
    )  # fmt: skip
    lines = soak.line(123, 599.0, result).splitlines()
    assert all(len(line) <= soak.WIDTH for line in lines)
    assert "10 not answered" in lines[0]
    assert lines[1].startswith("   ! aaa")
