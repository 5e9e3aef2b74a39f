"""The network on a GPU: what is measured by which options, and what happens where there is none."""

from pathlib import Path

import msgspec
import pytest

from benchmarks import gpu, gpu_report
from benchmarks.results import GpuPlan, Load


def test_a_whole_run_on_a_gpu_is_published_and_nothing_else_is() -> None:
    assert gpu.plan_of(gpu.parse([])) == GpuPlan()
    assert gpu.file_of(gpu.parse([])) == gpu_report.RESULTS
    for words in (["--device", "cpu"], ["--rounds", "1"], ["--batch-sizes", "4"]):
        assert gpu.file_of(gpu.parse(words)) == gpu.PART
    assert gpu.file_of(gpu.parse(["--results", "x.json"])) == Path("x.json")


def test_without_a_gpu_it_says_so_and_ends_with_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "gpu_name", lambda: "")
    monkeypatch.setattr("benchmarks.interruption.interrupt_by_signals", lambda: None)
    assert gpu.main([]) == gpu.NO_GPU
    assert "There is no GPU here" in capsys.readouterr().err


def test_the_loop_answers_what_it_is_told_to_do(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    config = tmp_path / "images.json"
    config.write_bytes(msgspec.json.encode({"size": 32, "width": 4, "classes": 10, "batch_size": 2}))
    with gpu._loop(config, "cpu", tmp_path) as loop:
        assert len(msgspec.json.decode(gpu._told(loop, "classes 3"), type=list[int])) == 3
        for what in ("bytes", "device"):
            assert msgspec.json.decode(gpu._told(loop, f"{what} 2 0.01"), type=Load).requests >= 4
    assert loop.returncode is not None
