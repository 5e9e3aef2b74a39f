"""The bodies have TorchServe's fields in its order; what came later breaks no older command."""

import msgspec
import pytest

from tests.cli import bodies
from torchrelay.shared.api_bodies import ErrorBody, FleetBody, ModelsBody, ModelsEntryBody, VersionBody

#: TorchServe's names, in its order; the optional ones are not in it.
VERSION = [
    "modelName", "modelVersion", "modelUrl", "runtime", "minWorkers", "maxWorkers", "batchSize",
    "maxBatchDelay", "responseTimeout", "startupTimeout", "maxRetryTimeoutInSec", "clientTimeoutInMills",
    "parallelType", "parallelLevel", "deviceType", "continuousBatching", "useJobTicket", "useVenv",
    "stateful", "sequenceMaxIdleMSec", "sequenceTimeoutMSec", "maxNumSequence", "maxSequenceJobQueueSize",
    "loadedAtStartup", "workers", "jobQueueStatus",
]  # fmt: skip


def test_a_version_has_torchserves_fields_in_its_order() -> None:
    assert list(msgspec.to_builtins(bodies.version())) == VERSION
    several = bodies.version(device_ids=(0, 1), customized_metadata=msgspec.Raw(b'{"a": 1e-05}'))
    written = msgspec.json.encode(several)
    at = VERSION.index("continuousBatching")
    assert list(msgspec.json.decode(written)) == [
        *VERSION[:at], "deviceIds", *VERSION[at:], "customizedMetadata"
    ]  # fmt: skip
    assert msgspec.json.decode(written, type=VersionBody) == several


def test_a_page_begins_with_the_token_of_the_next_and_the_last_page_has_none() -> None:
    entry = ModelsEntryBody(model_name="m", model_url="m.mar")
    page = b'{"nextPageToken":"7","models":[{"modelName":"m","modelUrl":"m.mar"}]}'
    assert msgspec.json.encode(ModelsBody(next_page_token="7", models=(entry,))) == page
    assert msgspec.json.encode(ModelsBody(models=())) == b'{"models":[]}'


def test_an_error_says_why_only_where_there_is_something_to_say() -> None:
    error = ErrorBody(code=404, type="ModelNotFoundException", message="Model not found: m")
    whole = b'{"code":404,"type":"ModelNotFoundException","message":"Model not found: m"}'
    assert msgspec.json.encode(error) == whole
    assert msgspec.json.decode(whole, type=ErrorBody) == error


def test_a_command_passes_over_fields_that_are_newer_than_it() -> None:
    newer = msgspec.to_builtins(bodies.fleet()) | {"aFieldOfNextYear": {}}
    assert msgspec.convert(newer, FleetBody) == bodies.fleet()


@pytest.mark.parametrize(
    ("wanted", "ready", "last_error", "is_ready", "has_failed"),
    [
        (1, 0, "", False, False),
        (1, 0, "ValueError", False, True),
        (1, 1, "ValueError", True, False),
        (0, 0, "", True, False),
        (1, 2, "", True, False),
    ],
)
def test_a_model_has_failed_once_workers_are_missing_for_an_error(
    wanted: int, ready: int, last_error: str, is_ready: bool, has_failed: bool
) -> None:
    model = bodies.model(workers_wanted=wanted, workers_ready=ready, last_error=last_error)
    assert (model.is_ready, model.has_failed, model.label) == (is_ready, has_failed, "m 1.0")
