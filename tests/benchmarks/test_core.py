import pytest

from benchmarks.core import Bench, measure


@pytest.mark.parametrize("jobs", [1, 8, 32])
def test_a_turn_answers_all_of_its_jobs(jobs: int) -> None:
    bench = Bench(jobs)
    assert bench.turn(range(jobs)) > 0
    assert bench.turn(range(jobs)) > 0


def test_a_measurement_says_what_a_job_takes() -> None:
    loop = measure(8, 0.01)
    assert loop.jobs_per_call == 8
    assert loop.us_per_job > 0
