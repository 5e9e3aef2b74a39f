import msgspec

from benchmarks.results import Load
from tests.benchmarks.peers.programs.conftest import Load as LoadProgram


def test_a_loop_is_counted_in_the_figures_that_a_server_has(load: LoadProgram) -> None:
    calls: list[int] = []
    said = load("raw_loop").run(lambda: calls.append(1), rows=16, seconds=0.001)
    figures = msgspec.convert(said, Load)
    assert figures.requests == 16 * len(calls)
    assert figures.errors == 0
    assert figures.duration_us >= 1000
    assert 0 <= figures.p50_us <= figures.p99_us


def test_the_slowest_call_is_measured_at_least_twice(load: LoadProgram) -> None:
    assert load("raw_loop").run(lambda: None, rows=1, seconds=0)["requests"] == 2
