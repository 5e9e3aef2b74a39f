from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from benchmarks import peers_report
from benchmarks.environments import Unavailable
from benchmarks.peers import __main__ as command
from benchmarks.peers import comparison
from benchmarks.peers.answer_check import CountedAnswers
from benchmarks.peers.comparison import Comparison
from benchmarks.peers.launches import CONTESTANTS, ComparedServer
from benchmarks.peers.rows import OURS, PLAN, QUICK_PLAN, ComparisonRow, chosen
from benchmarks.peers.started import StartedPeer
from benchmarks.results import Load, PeerMemory, RunPlan
from benchmarks.servers import ServerFailed

ROWS = chosen(["echo-1"])
SHORT = RunPlan(connections=(1, 16), rounds=2)


@dataclass
class FakePeer:
    """A server that fails where it is said to."""

    key: str
    row: ComparisonRow
    log: list[str]
    fails_at: str = ""
    wrong: int = 0
    timed: int = field(default=0)

    @property
    def server(self) -> ComparedServer:
        return CONTESTANTS[self.key]

    @contextmanager
    def awake(self) -> Iterator[None]:
        yield

    def await_ready(self) -> None:
        self._may_fail("start")

    def check(self, connections: int, seconds: float) -> CountedAnswers:
        self._may_fail("check")
        return CountedAnswers(10, self.wrong)

    def measure(self, connections: int, seconds: float) -> Load:
        self.timed += 1
        self._may_fail(f"run {self.timed}")
        self.log.append(self.key)
        return Load(requests=100, duration_us=1_000_000, p50_us=1, p99_us=2, refused=0, broken=0)

    def memory(self) -> PeerMemory:
        return PeerMemory(row=self.row.key, server=self.key, processes=1, rss_bytes=1, pss_bytes=1)

    def stop(self) -> None:
        self.log.append(f"{self.key} stopped")

    def cpu_seconds(self) -> dict[str, float]:
        return {"main": self.timed / 10}

    def _may_fail(self, step: str) -> None:
        if self.fails_at == step:
            raise ServerFailed(f"it failed at {step}")


def run(peers: list[str], missing: str = "", wrong: int = 0, **fails_at: str) -> tuple[Comparison, list[str]]:
    """Run the row with servers that aren't there; return what was found, and who was timed in what order."""
    log: list[str] = []
    open_ones: list[str] = []

    @contextmanager
    def start(key: str, row: ComparisonRow, home: Path, plan: RunPlan) -> Iterator[StartedPeer]:
        open_ones.append(key)
        try:
            yield cast(StartedPeer, FakePeer(key, row, log, fails_at.get(key, ""), wrong))
        finally:
            open_ones.remove(key)

    def make(name: str) -> None:
        if name == missing:
            raise Unavailable(f"there is no {name}")

    made = Comparison(SHORT, peers, start=cast("comparison.Start", start), make=make)
    made.run(ROWS, Path("unused"))
    assert open_ones == []
    return made, log


def test_servers_are_timed_in_turns_forwards_and_backwards() -> None:
    found, log = run([OURS, "mosec"])
    warm_ups, timed, stopped = log[:2], log[2:10], log[10:]
    assert warm_ups == [OURS, "mosec"]
    assert timed == [OURS, "mosec", "mosec", OURS] * 2
    assert set(stopped) == {f"{OURS} stopped", "mosec stopped"}
    assert [(point.connections, point.turn) for point in found.points if point.server == OURS] == [
        (1, 0),
        (1, 1),
        (16, 0),
        (16, 1),
    ]
    assert all(point.cpu_s == {"main": 0.1} for point in found.points)
    assert len(found.checks) == 4
    assert found.absences == []


@pytest.mark.parametrize("step", ["start", "check", "run 3"])
def test_a_server_that_fails_is_left_out_and_the_others_go_on(
    step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = run([OURS, "mosec"], mosec=step)
    assert [(one.server, one.reason) for one in found.absences] == [("mosec", f"it failed at {step}")]
    assert {point.server for point in found.points} == {OURS}
    assert len(found.points) == 4
    assert f"Mosec is left out: it failed at {step}" in capsys.readouterr().err


def test_a_server_that_can_not_be_installed_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    found, log = run([OURS, "mosec"], missing="mosec")
    assert [one.reason for one in found.absences] == ["there is no mosec"]
    assert "mosec" not in log


def test_wrong_answers_are_counted_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = run([OURS], wrong=2)
    assert [check.wrong for check in found.checks] == [2, 2]
    assert "2 of 10 answers were wrong" in capsys.readouterr().err


def test_options_left_out_make_the_plan_that_is_published() -> None:
    assert command.plan_of(command.parse([])) == PLAN
    assert command.plan_of(command.parse(["--quick"])) == QUICK_PLAN
    said = command.plan_of(command.parse(["--rounds", "7", "--connections", "1", "64", "--seconds", "1"]))
    assert (said.rounds, said.connections, said.seconds) == (7, (1, 64), 1.0)


@pytest.mark.parametrize("words", [["--rows", "none"], ["--peers", OURS], ["--peers", "none"]])
def test_what_is_not_there_can_not_be_chosen(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse(words)
    assert "invalid choice" in capsys.readouterr().err


def test_the_figures_of_a_part_go_elsewhere_than_those_that_are_published() -> None:
    assert command.file_of(command.parse([])) == peers_report.RESULTS
    for words in (["--quick"], ["--rows", "mlp"], ["--peers", "mosec"], ["--rounds", "9"]):
        assert command.file_of(command.parse(words)) == command.PART
    assert command.file_of(command.parse(["--quick", "--results", "x.json"])) == Path("x.json")


def test_starts_are_those_of_the_contestants(tmp_path: Path) -> None:
    assert isinstance(comparison.start_contestant(OURS, ROWS[0], tmp_path, PLAN), AbstractContextManager)
