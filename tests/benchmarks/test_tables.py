import pytest

from benchmarks import tables
from benchmarks.results import Load, Point


def point(requests: int, cpu_s: dict[str, float]) -> Point:
    load = Load(requests=requests, duration_us=1_000_000, p50_us=500.0, p99_us=2000.0, refused=0, broken=0)
    return Point(server="s", connections=64, turn=0, load=load, cpu_s=cpu_s)


def test_a_table_has_its_numbers_to_the_right() -> None:
    assert tables.table(("a", "b"), [("x", "1"), ("y", "2")]) == (
        "| a | b |\n| --- | ---: |\n| x | 1 |\n| y | 2 |"
    )


def test_cpu_time_is_divided_by_the_requests_of_all_runs() -> None:
    points = [point(1000, {"broker": 0.02}), point(3000, {"broker": 0.06, "node": 0.004})]
    assert tables.cpu_by_role(points) == pytest.approx({"broker": 20.0, "node": 1.0})
