from benchmarks.gpu_report import render
from benchmarks.results import GpuPlan, GpuPoint, GpuResults, Load, Machine


def test_a_batch_size_is_a_row_with_the_ratio_within_rounds() -> None:
    rates = {"server": (900, 800), "bytes": (1000, 1000), "device": (2000, 2000)}
    points = [
        GpuPoint(
            batch_size=8, turn=turn, what=what,
            load=Load(requests=rate, duration_us=10**6, p50_us=5000, p99_us=9000, refused=0, broken=0),
        )
        for what, found in rates.items() for turn, rate in enumerate(found)
    ]  # fmt: skip
    machine = Machine(cpu="C", cores=2, memory_bytes=1, kernel="k", python="3", versions={})
    text = render(GpuResults(taken_at="T", command="X", revision="abc", machine=machine, device="a GPU",
                             plan=GpuPlan(batch_sizes=(8,)), load_before=0.1, wrong=0,
                             points=tuple(points)))  # fmt: skip
    assert "| 8 | 850 | 5.00 | 9.00 | 1,000 | **0.85** (0.80 to 0.90) | 2,000 |" in text
    assert "a GPU, C, 2 cores" in text
