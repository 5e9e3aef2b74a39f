import msgspec
import pytest

from benchmarks import peers_report
from benchmarks.results import (
    Load,
    Machine,
    PeerAbsence,
    PeerCheck,
    PeerMemory,
    PeerPoint,
    PeerResults,
    PeerRow,
    PeerServer,
    RunPlan,
)

ROWS = (
    PeerRow(
        key="echo-1", label="64 bytes", connections=(1, 64), batch_size=1, max_batch_delay_ms=1, workers=1
    ),
    PeerRow(
        key="encoder", label="encoder", connections=(16,), batch_size=16, max_batch_delay_ms=1, workers=1
    ),
)


def point(row: str, server: str, connections: int, turn: int, requests: int, broken: int = 0) -> PeerPoint:
    load = Load(requests=requests, duration_us=1_000_000, p50_us=500, p99_us=2000, refused=0, broken=broken)
    return PeerPoint(
        row=row,
        server=server,
        connections=connections,
        turn=turn,
        load=load,
        cpu_s={"worker": 0.01},
        others_share=0.2,
    )


def results() -> PeerResults:
    points = [
        point("echo-1", server, connections, turn, requests)
        for connections in (1, 64)
        for server, rates in (("torchrelay", (1000, 3000, 2000)), ("mosec", (500, 1000, 2000)))
        for turn, requests in enumerate(rates)
    ]
    return PeerResults(
        taken_at="2026-01-31T12:00:00.000Z",
        command="python -m benchmarks.peers",
        revision="abc1234",
        machine=Machine(
            cpu="A CPU", cores=2, memory_bytes=2**34, kernel="Linux 6", python="3.11.7", versions={}
        ),
        plan=RunPlan(rounds=3, seconds=1.0),
        load_before=0.25,
        seconds=600,
        servers={
            "torchrelay": PeerServer(label="torchrelay", options="as it comes", versions={}),
            "mosec": PeerServer(label="Mosec", options="no logs", versions={"mosec": "0.9.8"}),
        },
        rows=ROWS,
        checks=(
            PeerCheck(row="echo-1", server="torchrelay", connections=1, answers=1000, wrong=0),
            PeerCheck(row="echo-1", server="mosec", connections=1, answers=500, wrong=3),
        ),
        points=(*points, point("encoder", "torchrelay", 16, 0, 50, broken=4)),
        memory=(
            PeerMemory(row="echo-1", server="torchrelay", processes=7, rss_bytes=1, pss_bytes=300 << 20),
            PeerMemory(row="echo-1", server="mosec", processes=3, rss_bytes=1, pss_bytes=None),
        ),
        absences=(PeerAbsence(row="encoder", server="mosec", reason="it ended:\n  no torch"),),
    )


def test_ratios_are_those_within_the_rounds() -> None:
    assert peers_report.ratios(results(), "echo-1", 1, "mosec") == [2.0, 3.0, 1.0]
    assert peers_report.ratios(results(), "encoder", 16, "mosec") == []


def test_the_first_table_has_our_rate_and_the_ratio_to_each_of_the_others() -> None:
    text = peers_report.render(results())
    assert "| row | connections | torchrelay requests/s | p50 ms | / Mosec |" in text
    assert "| 64 bytes | 64 | 2,000 | 0.50 | **2.00** (1.00 to 3.00) |" in text
    assert "| encoder | 16 | 50 | 0.50 | - |" in text


def test_every_server_has_its_own_figures_and_its_errors() -> None:
    text = peers_report.render(results())
    assert "| 64 bytes | 1 | Mosec | 1,000 | 500 to 2,000 | 0.50 | 2.00 | 0 | 9 |" in text
    assert "| encoder | 16 | torchrelay | 50 | 50 to 50 | 0.50 | 2.00 | 4 of 50 | 200 |" in text


def test_it_says_how_each_server_was_set_and_on_what_machine() -> None:
    text = peers_report.render(results())
    for fact in (
        "- **Mosec** (mosec 0.9.8): no logs",
        "abc1234",
        "A CPU, 2 cores for everything, Python ",
        "average was 0.25",
        "took 20% (at most 20%)",
    ):
        assert fact in text


def test_wrong_answers_and_missing_servers_are_owned_up_to() -> None:
    text = " ".join(peers_report.render(results()).split())
    assert "of 1,500 answers 3 were wrong or failed (Mosec 3)" in text
    assert "- mosec in row encoder: it ended: no torch" in text


def test_cpu_time_and_memory_are_shown_by_row() -> None:
    text = peers_report.render(results())
    assert "| process | 64 bytes, 64 connections | encoder, 16 connections |" in text
    assert "| torchrelay: worker | 5.0 | 200.0 |" in text
    assert "| Mosec: worker | 8.6 | - |" in text
    assert "| 64 bytes | 300 (7) | - |" in text


@pytest.mark.parametrize("what", ["points", "memory", "checks", "absences"])
def test_a_run_without_some_figures_makes_a_section_too(what: str) -> None:
    text = peers_report.render(msgspec.structs.replace(results(), **{what: ()}))
    assert text.startswith("## Beside other servers")


def test_the_section_can_be_made_again_from_the_json_file() -> None:
    again = msgspec.json.decode(msgspec.json.encode(results()), type=PeerResults)
    assert peers_report.render(again) == peers_report.render(results())
