from pathlib import Path

import msgspec

from benchmarks import peers_report, report
from benchmarks.results import Check, Load, Loop, Machine, Point, ProcessFacts, Results, RunPlan, StartUp
from tests.benchmarks import test_peers_report

SERVERS = {"torchrelay": "torchrelay", "torchserve": "TorchServe"}
CONNECTIONS = (1, 64)


def load(requests: int = 1000, refused: int = 0, p50_us: int = 500, p99_us: int = 2000) -> Load:
    return Load(
        requests=requests, duration_us=1_000_000, p50_us=p50_us, p99_us=p99_us, refused=refused, broken=0
    )


def point(server: str, connections: int, requests: int, cpu_s: dict[str, float]) -> Point:
    return Point(server=server, connections=connections, turn=0, load=load(requests), cpu_s=cpu_s)


def process(server: str, role: str, *, rss_mib: int, pss_mib: int | None, has_torch: bool) -> ProcessFacts:
    pss_bytes = None if pss_mib is None else pss_mib << 20
    return ProcessFacts(
        server=server, role=role, rss_bytes=rss_mib << 20, pss_bytes=pss_bytes, has_torch=has_torch
    )


def results() -> Results:
    rates = {"torchrelay": 3000, "torchserve": 1200}
    return Results(
        taken_at="2026-01-31T12:00:00.000Z",
        command="python -m benchmarks.run",
        revision="abc1234",
        machine=Machine(cpu="A CPU", cores=2, memory_bytes=2**34, kernel="Linux 6", python="3.11.7",
                        versions={"torch": "2.13.0"}),
        plan=RunPlan(connections=CONNECTIONS, rounds=1),
        servers=SERVERS,
        starts=tuple(StartUp(server=key, is_cold=cold, started_s=1.5, predicted_s=2.25)
                     for key in SERVERS for cold in (True, False)),
        processes=(
            process("torchrelay", "broker", rss_mib=50, pss_mib=30, has_torch=False),
            process("torchserve", "java", rss_mib=160, pss_mib=None, has_torch=True),
        ),
        checks=(Check(server="torchrelay", connections=1, answers=1500, wrong=2),),
        points=tuple(point(key, count, rates[key], {"broker": 0.03, "worker": 0.006})
                     for key in SERVERS for count in CONNECTIONS),
        loops=(Loop(what="broker core", jobs_per_call=8, us_per_job=10.0),),
    )  # fmt: skip


def test_runs_are_summarised_by_medians_and_their_spread() -> None:
    loads = [load(1000, p50_us=500), load(9000, p50_us=700), load(2000, p50_us=600)]
    assert report.summarise(loads) == ("2,000", "1,000 to 9,000", "0.60", "2.00", "0")


def test_errors_of_all_runs_are_counted_against_all_requests() -> None:
    assert report.summarise([load(1000, refused=2), load(1000, refused=3)])[-1] == "5 of 2000"


def test_the_ratio_is_that_of_the_medians() -> None:
    assert report.ratio([load(3000), load(1000), load(2000)], [load(500), load(1000), load(800)]) == "2.50"


def test_the_report_has_the_ratio_of_each_number_of_connections() -> None:
    text = report.render(results())
    for connections in CONNECTIONS:
        assert f"| {connections} | 3,000 | 1,200 | **2.50** |" in text


def test_the_report_says_what_it_was_measured_on_and_with() -> None:
    text = report.render(results())
    for fact in (
        "python -m benchmarks.run",
        "A CPU, 2 cores",
        "16.0 GiB",
        "torch 2.13.0",
        "abc1234",
        "2026-01-31",
    ):
        assert fact in text


def test_the_report_owns_up_to_wrong_answers() -> None:
    assert "Of 1,500 answers\n2 were anything else" in report.render(results())


def test_the_report_shows_each_process_with_its_memory_and_whether_it_has_torch() -> None:
    text = report.render(results())
    assert "| torchrelay: broker | 50 | 30 | no |" in text
    assert "| TorchServe: java | 160 | unreadable | yes |" in text


def test_the_report_shows_cold_and_warm_starts_apart() -> None:
    text = report.render(results())
    assert "| torchrelay, cold | 1.50 | 2.25 |" in text
    assert "| TorchServe, warm | 1.50 | 2.25 |" in text


def test_torchrelay_alone_makes_a_report_without_ratios() -> None:
    alone = msgspec.structs.replace(results(), servers={"torchrelay": "torchrelay"})
    text = report.render(alone)
    assert "| 64 | 3,000 |" in text
    assert "| TorchServe" not in text


def test_the_report_can_be_made_again_from_the_json_file(tmp_path: Path) -> None:
    raw, first = tmp_path / "results" / "raw.json", tmp_path / "report.md"
    report.write(results(), raw, first)
    again = msgspec.json.decode(raw.read_bytes(), type=Results)
    assert report.render(again) == first.read_text()


def test_figures_of_other_servers_are_a_section_where_they_lie_beside_the_reports_own(tmp_path: Path) -> None:
    raw, page = tmp_path / "raw.json", tmp_path / "report.md"
    report.write(results(), raw, page)
    assert "## Beside other servers" not in page.read_text()
    (tmp_path / peers_report.RESULTS.name).write_bytes(msgspec.json.encode(test_peers_report.results()))
    report.write(results(), raw, page)
    assert peers_report.render(test_peers_report.results()) in page.read_text()
