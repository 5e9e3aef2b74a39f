from pathlib import Path

import msgspec

from benchmarks import encryption_report, report
from benchmarks.results import Check, EncryptionPoint, EncryptionResults, Load, Machine, RunPlan
from tests.benchmarks.test_report import results as of_servers

MACHINE = Machine(cpu="A CPU", cores=2, memory_bytes=2**34, kernel="Linux 6", python="3.11.7", versions={})


def point(kind: str, turn: int, requests: int, p50_us: float, *, connections: int = 64) -> EncryptionPoint:
    load = Load(requests=requests, duration_us=1_000_000, p50_us=p50_us, p99_us=1.0, refused=0, broken=0)
    cpu_s = {"broker": 0.02 if kind == "plain" else 0.03, "broker, zmq": 0.01}
    return EncryptionPoint(server=kind, connections=connections, turn=turn, load=load, cpu_s=cpu_s,
                           gateway="unix", body_bytes=64)  # fmt: skip


def results(points: list[EncryptionPoint], connections: tuple[int, ...] = (64,)) -> EncryptionResults:
    return EncryptionResults(
        taken_at="2026-01-31T12:00:00.000Z", command="python -m benchmarks.encryption", revision="abc1234",
        machine=MACHINE, plan=RunPlan(connections=connections, rounds=3), points=tuple(points),
        checks=(Check(server="plain", connections=64, answers=1000, wrong=0),),
    )  # fmt: skip


def test_runs_are_compared_within_their_pair() -> None:
    """The machine slows down to a tenth; encryption takes a tenth of the rate all the same."""
    rates = [(1000, 900), (500, 450), (100, 90)]
    points = [point(kind, turn, rate, 500.0 + 40 * (kind == "secured")) for turn, pair in enumerate(rates)
              for kind, rate in zip(("plain", "secured"), pair, strict=True)]  # fmt: skip
    text = encryption_report.render(results(points))
    cells = "| 64 | 64 | 500 | 450 | **0.90** (0.90 to 0.90) | 0.50 | 0.04 (0.04 to 0.04) |"
    assert cells in text


def test_turns_that_went_backwards_are_paired_all_the_same() -> None:
    points = [point("plain", 0, 100, 1.0), point("secured", 0, 50, 1.0), point("secured", 1, 500, 1.0),
              point("plain", 1, 1000, 1.0)]  # fmt: skip
    assert "**0.50** (0.50 to 0.50)" in encryption_report.render(results(points))


def test_cpu_time_is_shown_where_most_connections_are() -> None:
    points = [point(kind, 0, 1000, 1.0, connections=connections) for connections in (1, 64)
              for kind in ("plain", "secured")]  # fmt: skip
    text = encryption_report.render(results(points, (1, 64)))
    assert "per request at 64 connections" in text
    assert "| broker | 20.0 | 30.0 |" in text
    assert "| broker, zmq | 10.0 | 10.0 |" in text


def test_the_page_on_performance_has_the_section_where_there_are_figures() -> None:
    assert "Encryption between hosts" not in report.render(of_servers())
    found = results([point("plain", 0, 100, 1.0), point("secured", 0, 90, 1.0)])
    assert encryption_report.render(found) in report.render(of_servers(), found)


def test_the_page_is_written_with_the_figures_that_lie_beside_its_own(tmp_path: Path) -> None:
    raw, page = tmp_path / "performance.json", tmp_path / "performance.md"
    report.write(of_servers(), raw, page)
    assert page.read_text() == report.render(of_servers())
    found = results([point("plain", 0, 100, 1.0), point("secured", 0, 90, 1.0)])
    raw.with_name("encryption.json").write_bytes(msgspec.json.encode(found))
    report.write(of_servers(), raw, page)
    assert page.read_text() == report.render(of_servers(), found)
