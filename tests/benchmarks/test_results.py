"""What a run found, as plain data."""

import msgspec

from benchmarks.results import Load, Machine, Point, Results, RunPlan

LOAD = Load(requests=1000, duration_us=500_000, p50_us=1.0, p99_us=2.0, refused=3, broken=4)


def test_a_rate_is_answers_in_a_second_and_errors_are_all_that_is_no_good_answer() -> None:
    assert LOAD.rate == 2000
    assert LOAD.errors == 7


def test_results_are_the_same_after_they_were_written_and_read() -> None:
    machine = Machine(cpu="c", cores=2, memory_bytes=1, kernel="k", python="3", versions={"torch": "2"})
    point = Point(server="relay", connections=1, turn=0, load=LOAD, cpu_s={"gateway": 0.5})
    results = Results(
        taken_at="now", command="run", revision="abc", machine=machine, plan=RunPlan(),
        servers={"relay": "torchrelay"}, points=(point,),
    )  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(results), type=Results) == results
