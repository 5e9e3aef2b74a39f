"""Starts and replicas: what is measured by which options, and the model of which there are many."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import replica_handler, startup, startup_report
from benchmarks.results import StartupPlan


def test_a_run_without_options_is_the_one_that_is_published_and_no_other_is() -> None:
    assert startup.plan_of(startup.parse([])) == StartupPlan()
    assert startup.file_of(startup.parse([])) == startup_report.RESULTS
    for words in (["--quick"], ["--replicas", "3"], ["--start-rounds", "1"], ["--without-torchserve"]):
        assert startup.file_of(startup.parse(words)) == startup.PART
    assert startup.file_of(startup.parse(["--quick", "--results", "x.json"])) == Path("x.json")


def test_torchserves_replicas_are_fewer_where_there_is_no_memory_for_them() -> None:
    assert startup.replicas_that_fit(60, "torchserve-quiet", 64 << 30) == 60
    assert startup.replicas_that_fit(60, "torchserve-quiet", 10 * startup.TORCHSERVE_WORKER_BYTES) == 8
    assert startup.replicas_that_fit(60, "torchserve-quiet", 0) == 1
    assert startup.replicas_that_fit(60, "torchrelay", 0) == 60


def test_each_model_answers_by_its_own_weights(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    answers = set()
    for seed, name in enumerate(startup.MODELS):
        store = tmp_path / name / "store"
        store.mkdir(parents=True)
        startup.make_archive(store, name, seed)
        assert (store / f"{name}.mar").exists()
        context = SimpleNamespace(system_properties={"model_dir": str(store.parent)})
        assert replica_handler.handle(None, context) == []
        first, second = replica_handler.handle([{"body": b"a"}, {"body": b"b"}], context)
        assert first == second
        answers.add(first)
    assert len(answers) == len(startup.MODELS)
