import subprocess
from pathlib import Path

import pytest

from benchmarks import pair, servers
from benchmarks.results import Check, Load, Point
from torchrelay.shared.settings import environment


def point(server: str, turn: int, requests: int, refused: int = 0, broken: int = 0) -> Point:
    load = Load(
        requests=requests, duration_us=1_000_000, p50_us=1.0, p99_us=1.0, refused=refused, broken=broken
    )
    return Point(server=server, connections=64, turn=turn, load=load, cpu_s={})


def test_runs_are_compared_within_their_pair() -> None:
    """The machine slows down to a tenth; the new revision is 10 % faster all the same."""
    rates = [(1000, 1100), (500, 550), (100, 110)]
    points = [point(key, turn, rate) for turn, pair_of in enumerate(rates)
              for key, rate in zip(("old", "new"), pair_of, strict=True)]  # fmt: skip
    assert pair.medians(points) == {64: pytest.approx(1.1)}
    assert "new/old 1.10 (1.10 to 1.10)" in pair.report(points)


def test_a_revision_may_lose_what_was_allowed_and_no_more() -> None:
    points = [point("old", 0, 100), point("new", 0, 94)]
    assert pair.slower(points, 6.5) == []
    assert pair.slower(points, 5.0) == ["the new revision is slower at [64] connections"]


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    with pair.checked_out(str(tmp_path), tmp_path / "elsewhere") as tree:
        assert tree == tmp_path
    assert tmp_path.exists()


def test_a_revision_runs_the_same_command_with_sources_of_its_own(tmp_path: Path) -> None:
    installed, own = servers.torchrelay(1), servers.torchrelay_at(tmp_path, "old", 1)
    assert own.command[-len(installed.command) + 1 :] == installed.command[1:]
    assert own.python_path == str(tmp_path / "src")


@pytest.mark.parametrize("has_sources", [True, False])
def test_a_folder_without_sources_runs_none_at_all(tmp_path: Path, has_sources: bool) -> None:
    tree = pair.ROOT if has_sources else tmp_path
    start = servers.torchrelay_at(tree, "old", 1)
    done = subprocess.run(
        [*start.command[:3], "--version"],
        env={**environment(), "PYTHONPATH": start.python_path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0, "AssertionError" in done.stderr) == (has_sources, not has_sources)


def test_answers_that_are_wrong_make_no_revision_the_faster_one() -> None:
    good = [point("old", 0, 100), point("new", 0, 100)]
    checks = [Check(server=key, connections=64, answers=10, wrong=0) for key in pair.KEYS]
    assert pair.wrong(checks, good) == []
    refusing = [good[0], point("new", 0, 900, refused=890, broken=2)]
    spoilt = [checks[0], Check(server="new", connections=64, answers=10, wrong=8)]
    (fault,) = pair.wrong(spoilt, refusing)
    assert fault.startswith("900 answers of the new revision were wrong")


def test_git_says_why_a_revision_can_not_be_checked_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(subprocess.CalledProcessError),
        pair.checked_out("no-such-revision", tmp_path / "tree"),
    ):
        pass
    assert "fatal:" in capfd.readouterr().err
