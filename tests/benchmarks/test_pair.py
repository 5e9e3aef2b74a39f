from pathlib import Path

import pytest

from benchmarks import pair, servers
from benchmarks.results import Load, Plan, Point


def point(server: str, turn: int, requests: int) -> Point:
    load = Load(requests=requests, duration_us=1_000_000, p50_us=1.0, p99_us=1.0, refused=0, broken=0)
    return Point(server=server, connections=64, turn=turn, load=load, cpu_s={})


def test_runs_are_compared_within_their_pair() -> None:
    """The machine slows down to a tenth; the new revision is 10 % faster all the same."""
    rates = [(1000, 1100), (500, 550), (100, 110)]
    points = [point(key, turn, rate) for turn, pair_of in enumerate(rates)
              for key, rate in zip(("old", "new"), pair_of, strict=True)]  # fmt: skip
    assert pair.medians(points) == {64: pytest.approx(1.1)}
    assert "new/old 1.10 (1.10 to 1.10)" in pair.report(points)


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    with pair.checked_out(str(tmp_path), tmp_path / "elsewhere") as tree:
        assert tree == tmp_path
    assert tmp_path.exists()


def test_a_revision_runs_the_same_command_with_sources_of_its_own(tmp_path: Path) -> None:
    installed, own = servers.torchrelay(1), servers.torchrelay_at(tmp_path, "old", Plan())
    assert own.command[-len(installed.command) + 1 :] == installed.command[1:]
    assert own.python_path == str(tmp_path)
