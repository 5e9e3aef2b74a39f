from benchmarks.arrivals_report import load_label, render
from benchmarks.results import ArrivalPlan, ArrivalPoint, ArrivalResults, Machine


def point(server: str, p50_us: float, *, percent: int = 0, clients: int = 0, turn: int = 0) -> ArrivalPoint:
    return ArrivalPoint(
        server=server, delay_ms=50, load_percent=percent, clients=clients, turn=turn, asked=200, answered=200,
        seconds=2.0, p50_us=p50_us, p99_us=4000.0, late_p99_us=1500.0,
    )  # fmt: skip


def results(*points: ArrivalPoint) -> ArrivalResults:
    machine = Machine(cpu="C", cores=2, memory_bytes=1, kernel="k", python="3", versions={})
    servers = {"torchrelay": "torchrelay", "torchserve": "TorchServe"}
    return ArrivalResults(taken_at="T", command="X", revision="abc", machine=machine, plan=ArrivalPlan(),
                          load_before=0.5, servers=servers, points=points)  # fmt: skip


def test_each_load_with_each_delay_is_a_row_with_the_medians_of_all_servers() -> None:
    rounds = enumerate((5000.0, 9000.0, 6000.0))
    points = [point("torchrelay", us, percent=10, turn=turn) for turn, us in rounds]
    points += [point("torchserve", 60_000, percent=10), point("torchrelay", 5000, clients=1)]
    text = render(results(*points, point("torchserve", 5000, clients=1)))
    assert "| 10 % | 50 | 100 | 6.00 | 4.00 | 100 | 60.00 | 4.00 | **0.10** |" in text
    assert "| 1 client | 50 |" in text
    assert "In no row is torchrelay worse" in text
    assert "Of 1,200 requests 0 had no right answer" in text


def test_a_row_in_which_ours_is_worse_is_named() -> None:
    text = render(results(point("torchrelay", 9000, clients=8), point("torchserve", 5000, clients=8)))
    assert "torchrelay is worse at 8 clients with 50 ms (TorchServe)" in text


def test_loads_are_called_by_what_they_are() -> None:
    assert [load_label(50, 0), load_label(0, 1), load_label(0, 8)] == ["50 %", "1 client", "8 clients"]
