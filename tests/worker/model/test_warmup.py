"""Warm-up requests, in each way of running a handler."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ts.context import Context
from ts.metrics.metrics_cache import MetricsCache
from ts.model_loader import EntryPoint
from ts.utils.util import PredictionException

from torchrelay.shared.archives.model_config import ModelConfig, WarmupRequest
from torchrelay.worker.common.handler_errors import is_out_of_memory
from torchrelay.worker.model.held_leases import Batch
from torchrelay.worker.model.loading import LoadedModel
from torchrelay.worker.model.runner import Runner
from torchrelay.worker.model.warmup import WarmupFailed, warm_up

HELLO = WarmupRequest(body="hello")


def made(handler: EntryPoint, *requests: WarmupRequest, **config: Any) -> Runner:  # Any: ModelConfig's fields
    context = Context("m", "/", {}, 1, None, "0", metrics=MetricsCache("m"))
    loop = asyncio.new_event_loop() if config.get("async_communication") else None
    settings = ModelConfig(warmup=requests or (HELLO,), **config)
    return Runner(
        model=LoadedModel(handler, context, settings, loop=loop), decode_input=True, response_limit_bytes=1000
    )


def warmed(runner: Runner, folder: Path = Path("/nowhere")) -> None:
    warm_up(runner, None, folder)
    if runner.model.loop is not None:
        runner.model.loop.close()


class Seen:
    """A handler that remembers what it was given."""

    def __init__(self) -> None:
        self.rows: list[object] = []
        self.headers: list[dict[str, object]] = []
        self.ids: list[str | None] = []

    def handle(self, data: Sequence[dict[str, object]], context: Context) -> list[str]:
        self.rows += data
        self.headers += [context.get_all_request_header(index) for index in range(len(data))]
        self.ids += [context.get_request_id(index) for index in range(len(data))]
        assert context.metrics is not None
        context.metrics.add_counter("Calls", 1)
        return ["ok"] * len(data)

    async def handle_async(self, data: Sequence[dict[str, object]], context: Context) -> list[str]:
        await asyncio.sleep(0)
        return self.handle(data, context)


@pytest.mark.parametrize(
    "config",
    [{}, {"continuous_batching": True}, {"async_communication": True}],
    ids=["batches", "continuous", "async"],
)
def test_requests_reach_the_handler_as_clients_would_send_them(
    config: dict[str, bool], tmp_path: Path
) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"\xff\xd8")
    seen = Seen()
    handler = seen.handle_async if "async_communication" in config else seen.handle
    runner = made(
        handler,
        WarmupRequest(body='{"a": 1}', content_type="application/json", repeat=2),
        WarmupRequest(file="cat.jpg", content_type="image/jpeg", name="data"),
        HELLO,
        **config,
    )
    warmed(runner, tmp_path)
    assert seen.rows == [{"body": {"a": 1}}, {"body": {"a": 1}}, {"data": b"\xff\xd8"}, {"body": b"hello"}]
    assert seen.ids == ["warmup-1", "warmup-2", "warmup-3", "warmup-4"]
    assert seen.headers[2]["content-type"] == "image/jpeg"
    assert seen.headers[2]["content-length"] == "2"


@pytest.mark.parametrize("config", [{}, {"async_communication": True}], ids=["batches", "async"])
def test_no_metric_counts_them_but_what_was_measured_before_is_kept(config: dict[str, bool]) -> None:
    seen = Seen()
    runner = made(seen.handle_async if config else seen.handle, **config)
    assert runner.model.context.metrics is not None
    runner.model.context.metrics.add_counter("Loads", 1)
    warmed(runner)
    measured = runner.measuring.due(time.monotonic() + 10, is_idle=True)
    assert measured is not None
    assert [point.name for point in measured.points] == ["Loads"]
    assert runner.model.context.request_ids is None


def raises(error: BaseException) -> EntryPoint:
    def handle(data: object, context: Context) -> object:
        raise error

    return handle


def status_418(data: object, context: Context) -> list[str]:
    context.set_response_status(418, "teapot")
    return ["short and stout"]


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (raises(ValueError("bad pixel")), "warm-up request 1 of 1 failed: ValueError: bad pixel"),
        (raises(PredictionException("no cat", 404)), "warm-up request 1 of 1 failed: no cat"),
        (lambda data, context: None, "the handler returned a NoneType, not a list"),
        (status_418, "failed: status 418 short and stout"),
    ],
)
def test_a_request_that_fails_is_the_workers_failure_in_its_words(handler: EntryPoint, words: str) -> None:
    with pytest.raises(WarmupFailed, match=words) as caught:
        warmed(made(handler))
    assert not is_out_of_memory(caught.value)


def test_memory_that_runs_out_is_told_apart() -> None:
    with pytest.raises(WarmupFailed) as caught:
        warmed(made(raises(MemoryError("none left"))))
    assert is_out_of_memory(caught.value)


def test_a_file_that_the_archive_lacks_is_named(tmp_path: Path) -> None:
    words = r"warm-up request 1 of 1 \(cat.jpg\): the archive's file can't be read: No such file"
    with pytest.raises(WarmupFailed, match=words):
        warmed(made(Seen().handle, WarmupRequest(file="cat.jpg")), tmp_path)


def test_a_request_that_takes_several_calls_is_made_until_it_ends() -> None:
    calls = 0

    def handle(data: list[object], context: Context) -> list[str]:
        nonlocal calls
        calls += 1
        context.stopping_criteria = [lambda _: calls == 3]
        return ["part"]

    warmed(made(handle, continuous_batching=True))
    assert calls == 3


def test_the_workers_other_processes_run_them_too() -> None:
    shared: list[Batch] = []
    warm_up(made(Seen().handle), lambda batch, _: shared.append(batch), Path("/nowhere"))
    assert [len(batch.jobs) for batch in shared] == [1]


def test_a_model_that_batches_by_sequence_finds_one() -> None:
    names: list[str | None] = []

    def handle(data: list[object], context: Context) -> list[str]:
        names.append(context.get_sequence_id(0))
        return ["ok"]

    warmed(made(handle, WarmupRequest(body="x", repeat=2), sequence_batching=True))
    assert names == ["warmup", "warmup"]
