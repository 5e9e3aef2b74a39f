"""Who wins when a request, an archive, config.properties and a snapshot disagree."""

from typing import Any
from urllib.parse import quote, unquote

import httptools
import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.broker.rig import settings
from torchrelay.broker.models.precedence import settle
from torchrelay.broker.models.records import Prepared, VersionRecord
from torchrelay.shared import errors
from torchrelay.shared.archives.model_config import ModelConfig, Torchrun
from torchrelay.shared.settings import BrokerSettings, StartupModel
from torchrelay.shared.wire import messages as m

OF_OPERATOR = StartupModel(
    name="m", version="1.0", min_workers=3, max_workers=5, batch_size=30, max_batch_delay_ms=31,
    response_timeout_s=32, startup_timeout_s=33, runtime="LSP",
)  # fmt: skip
OF_ARCHIVE = ModelConfig(
    min_workers=1, max_workers=2, batch_size=20, max_batch_delay_ms=21, response_timeout_s=22,
    startup_timeout_s=23,
)  # fmt: skip
OF_REQUEST: dict[str, Any] = {
    "initial_workers": 4, "batch_size": 40, "max_batch_delay_ms": 41, "response_timeout_s": 42,
    "startup_timeout_s": 43, "runtime": "python3",
}  # fmt: skip


def settled(
    request: dict[str, Any] | None = None,
    *,
    config: ModelConfig | None = None,
    models: tuple[StartupModel, ...] = (),
    restored: StartupModel | None = None,
    at_start: bool = False,
    broker: BrokerSettings | None = None,
) -> VersionRecord:
    broker = broker or settings(default_response_timeout_s=52, default_startup_timeout_s=53, models=models)
    prepared = Prepared("sha", 1, "m", "1.0", "handler", "python", "file", config)
    ask = m.RegisterModel(1, "m.mar", **(request or {}))
    return settle(ask, prepared, broker, at_start=at_start, restored=restored)


def summary(record: VersionRecord) -> tuple[object, ...]:
    return (
        (record.min_workers, record.max_workers),
        (record.batch_size, record.max_batch_delay_ms),
        (record.response_timeout_s, record.startup_timeout_s),
        record.runtime,
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ((0, 0), (1, 100), (52, 53), "python")),
        ({"request": OF_REQUEST}, ((4, 4), (40, 41), (42, 43), "python3")),
        ({"config": OF_ARCHIVE}, ((1, 2), (20, 21), (22, 23), "python")),
        ({"request": OF_REQUEST, "config": OF_ARCHIVE}, ((1, 2), (40, 41), (22, 23), "python3")),
        ({"request": OF_REQUEST, "config": ModelConfig()}, ((4, 4), (40, 41), (42, 43), "python3")),
        ({"models": (OF_OPERATOR,)}, ((0, 0), (30, 31), (32, 33), "LSP")),
        ({"models": (OF_OPERATOR,), "config": OF_ARCHIVE}, ((1, 2), (20, 21), (22, 23), "LSP")),
        ({"models": (OF_OPERATOR,), "request": OF_REQUEST}, ((4, 4), (40, 41), (32, 33), "LSP")),
        ({"models": (OF_OPERATOR,), "at_start": True}, ((3, 5), (30, 31), (32, 33), "LSP")),
        (
            {"models": (OF_OPERATOR,), "config": OF_ARCHIVE, "at_start": True},
            ((1, 2), (20, 21), (22, 23), "LSP"),
        ),
        (
            {"restored": OF_OPERATOR, "config": OF_ARCHIVE, "at_start": True},
            ((3, 5), (30, 31), (32, 33), "LSP"),
        ),
        (
            {"restored": StartupModel(name="m", version="1.0"), "config": OF_ARCHIVE, "at_start": True},
            ((0, 0), (20, 21), (22, 23), "python"),
        ),
    ],
)
def test_the_stronger_source_wins(said: dict[str, Any], expected: tuple[object, ...]) -> None:
    assert summary(settled(**said)) == expected


@pytest.mark.parametrize(
    ("default", "at_start", "expected"), [(0, False, 0), (2, False, 2), (0, True, 7), (2, True, 2)]
)
def test_workers_that_nobody_counted(default: int, at_start: bool, expected: int) -> None:
    broker = settings(default_workers_per_model=default, startup_workers_per_model=7)
    record = settled(at_start=at_start, broker=broker)
    assert (record.min_workers, record.max_workers) == (expected, expected)


@pytest.mark.parametrize(
    "config",
    [ModelConfig(min_workers=2), ModelConfig(max_workers=2), ModelConfig(min_workers=3, max_workers=2)],
)
def test_a_number_of_workers_counts_only_as_a_range(config: ModelConfig) -> None:
    assert settled({"initial_workers": 1}, config=config).min_workers == 1


def test_an_archive_that_counts_its_workers_gets_them_though_the_request_wants_none() -> None:
    assert settled({"initial_workers": 0}, config=OF_ARCHIVE).min_workers == 1


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"batch_size": -1}, (1, 100)),
        ({"batch_size": 0}, (1, 100)),
        ({"batch_size": -5}, (1, 100)),
        ({"max_batch_delay_ms": -100}, (1, 100)),
        ({"max_batch_delay_ms": -7}, (1, 100)),
        ({"max_batch_delay_ms": 0}, (1, 0)),
        ({"initial_workers": -3}, (1, 100)),
    ],
)
def test_numbers_below_sense_are_no_numbers(request_: dict[str, Any], expected: tuple[int, int]) -> None:
    record = settled(request_)
    assert (record.batch_size, record.max_batch_delay_ms) == expected
    assert record.min_workers == 0


def test_a_timeout_of_nothing_is_taken_at_its_word_and_a_negative_one_is_not() -> None:
    record = settled({"response_timeout_s": 0, "startup_timeout_s": -1})
    assert (record.response_timeout_s, record.startup_timeout_s) == (0, 53)


def test_models_of_the_configuration_mean_one_version_of_one_name() -> None:
    others = (
        StartupModel(name="m", version="2.0", batch_size=9),
        StartupModel(name="other", version="1.0", batch_size=9),
    )
    assert settled(models=others).batch_size == 1
    assert settled({"model_name": "other"}, models=others).batch_size == 9


def test_only_a_model_that_the_start_names_was_loaded_at_startup() -> None:
    assert settled(at_start=True).loaded_at_startup
    assert not settled(at_start=True, restored=OF_OPERATOR).loaded_at_startup
    assert not settled().loaded_at_startup


@pytest.mark.parametrize(("at_start", "name"), [(True, "file"), (False, None)])
def test_an_archive_without_a_name_takes_that_of_its_file_at_start_only(
    at_start: bool, name: str | None
) -> None:
    prepared = Prepared("sha", 1, "", "", "h", "python", "file")
    if name is None:
        with pytest.raises(errors.InvalidModel, match=r"Model name is not defined\."):
            settle(m.RegisterModel(1, "u"), prepared, settings(), at_start=at_start)
    else:
        record = settle(m.RegisterModel(1, "u"), prepared, settings(), at_start=at_start)
        assert (record.model, record.version) == (name, "1.0")


@pytest.mark.parametrize(
    "name", ["a/b", "a\nb", "a\0", ".", "..", "\x1b[2J", "\u202ea", "\ud800", "a" * 256, "\u4f60" * 86, "/"]
)
def test_a_name_or_version_that_no_url_can_hold_is_refused(name: str) -> None:
    with pytest.raises(errors.BadRequest, match=r"Model name .* can't be part of a URL") as caught:
        settled({"model_name": name})
    assert len(str(caught.value)) < 400
    prepared = Prepared("sha", 1, "m", name, "h", "python", "file")
    with pytest.raises(errors.BadRequest, match=r"Model version .* can't be part of a URL"):
        settle(m.RegisterModel(1, "u"), prepared, settings())


@given(st.text(min_size=1, max_size=90))
@example("...")
@example("a" * 255)
@example("\u4f60" * 85)
@example("a?b#c%2F;d\\e:f")
def test_every_name_that_is_taken_fits_a_path_and_comes_through_it(name: str) -> None:
    try:
        record = settled({"model_name": name})
    except errors.CallerFault:
        return
    path = f"/models/{quote(record.model, safe='')}/{quote(record.model, safe='')}/set-default"
    assert len(path) <= 4096
    url = httptools.parse_url(path.encode())
    assert unquote(url.path.decode()).split("/")[2] == name
    assert httpx2.URL(f"http://host{path}").raw_path.decode() == path


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"torchrun": Torchrun(nnodes=2)}, "nnodes"),
        ({"async_communication": True}, "asyncCommunication"),
    ],
)
def test_what_workers_of_several_processes_cannot_do_is_refused(more: dict[str, Any], why: str) -> None:
    with pytest.raises(errors.InvalidModel, match=why):
        settled(config=ModelConfig(parallel_type="tp", parallel_level=2, **more))


def test_sequences_without_an_end_are_refused_at_registration() -> None:
    with pytest.raises(errors.InvalidModel, match="sequenceMaxIdleMSec"):
        settled(config=ModelConfig(sequence_batching=True))
    assert settled(config=ModelConfig(sequence_batching=True, sequence_max_idle_ms=1)).config
