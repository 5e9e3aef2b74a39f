"""The management API by gRPC: what is asked of the broker, and TorchServe's texts."""

import json
from typing import Any

import pytest

from tests.gateway.facts import WORKER, described, facts
from tests.gateway.fakes import Replies
from tests.gateway.grpc.serving import refused, served
from torchrelay.gateway.grpc.protos import management_pb2 as pb
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m

MODELS = "org.pytorch.serve.archive.model."


async def asked(replies: Replies, method: str, request: Any) -> tuple[Any, str]:
    """Return what the broker was asked, and the text of the answer."""
    async with served(replies=replies, enable_model_api=True) as client:
        answer = await client.manage(method, request)
        return client.link.asked[-1], answer.msg


async def test_a_registration_takes_what_is_given_and_doesnt_wait_unless_it_is_said() -> None:
    def registered(ask: Any) -> m.Message:
        return m.ModelRegistered(ask.ask, "echo", "1.0", 0 if ask.synchronous is False else 2, done=True)

    ask, text = await asked(registered, "RegisterModel", pb.RegisterModelRequest(url="echo.mar"))
    assert (ask.url, ask.synchronous, ask.model_name, ask.batch_size) == ("echo.mar", False, None, None)
    assert text == (
        'Model "echo" Version: 1.0 registered with 0 initial workers.'
        " Use scale workers API to add workers for the model."
    )
    whole = pb.RegisterModelRequest(
        url="echo.mar", batch_size=4, handler="h", initial_workers=2, max_batch_delay=7, model_name="n",
        response_timeout=33, runtime="python", synchronous=True, s3_sse_kms=True, startup_timeout=44,
    )  # fmt: skip
    ask, text = await asked(registered, "RegisterModel", whole)
    assert text == 'Model "echo" Version: 1.0 registered with 2 initial workers'
    given = (ask.batch_size, ask.handler, ask.initial_workers, ask.max_batch_delay_ms, ask.model_name)
    assert given == (4, "h", 2, 7, "n")
    assert (ask.response_timeout_s, ask.startup_timeout_s, ask.runtime, ask.s3_sse_kms) == (
        33,
        44,
        "python",
        True,
    )


async def test_numbers_below_one_count_as_absent() -> None:
    scaled = await asked(
        lambda ask: m.WorkersScaled(ask.ask, done=True),
        "ScaleWorker",
        pb.ScaleWorkerRequest(model_name="echo", min_worker=-3, max_worker=0, synchronous=True, timeout=-7),
    )
    assert (scaled[0].min_workers, scaled[0].max_workers, scaled[0].drain_timeout_s) == (1, 1, -1)
    assert scaled[1] == "Workers scaled to 1 for model: echo"
    listed = await asked(
        lambda ask: m.ModelsListed(ask.ask, (), None), "ListModels", pb.ListModelsRequest(next_page_token=-1)
    )
    assert (listed[0].limit, listed[0].offset) == (100, 0)
    assert listed[1] == '{\n  "models": []\n}'


async def test_versions_are_described_as_by_rest() -> None:
    ask, text = await asked(
        described(facts(WORKER)), "DescribeModel", pb.DescribeModelRequest(model_name="echo")
    )
    assert (ask.model, ask.version, ask.every) == ("echo", None, False)
    assert json.loads(text)[0]["modelName"] == "echo"
    ask, _ = await asked(
        described(facts(WORKER)),
        "DescribeModel",
        pb.DescribeModelRequest(model_name="echo", model_version="all"),
    )
    assert ask.every
    async with served(replies=described(facts(WORKER))) as client:
        answer = await client.manage(
            "DescribeModel", pb.DescribeModelRequest(model_name="echo", customized=True)
        )
        assert json.loads(answer.msg)[0]["customizedMetadata"] == {}
        assert client.link.requests[0].headers == (("describe", "True"),)


async def test_the_default_version_is_set_and_one_unregistered() -> None:
    _, text = await asked(
        lambda ask: m.DefaultSet(ask.ask),
        "SetDefault",
        pb.SetDefaultRequest(model_name="m", model_version="2"),
    )
    assert text == 'Default version successfully updated for model "m" to "2"'
    ask, text = await asked(
        lambda ask: m.ModelUnregistered(ask.ask, "m"),
        "UnregisterModel",
        pb.UnregisterModelRequest(model_name="m"),
    )
    assert (ask.version, text) == (None, 'Model "m" unregistered')


@pytest.mark.parametrize(
    ("error", "code", "tag"),
    [
        (errors.ModelNotFound("no"), "NOT_FOUND", "org.pytorch.serve.archive.model.ModelNotFoundException"),
        (errors.InvalidModel("no"), "INVALID_ARGUMENT", f"{MODELS}InvalidModelException"),
        (errors.DownloadFailed("no"), "INVALID_ARGUMENT",
         "org.pytorch.serve.archive.DownloadArchiveException"),
        (errors.Conflict("no"), "UNKNOWN", "org.pytorch.serve.http.ConflictStatusException"),
        (errors.InvalidModelVersion("no"), "UNKNOWN",
         "org.pytorch.serve.archive.model.InvalidModelVersionException"),
        (errors.WorkerStartFailed("no"), "INTERNAL", "org.pytorch.serve.http.InternalServerException"),
        (errors.RequestTimeout("no"), "DEADLINE_EXCEEDED", "org.pytorch.serve.http.RequestTimeoutException"),
    ],
)  # fmt: skip
async def test_a_refusal_has_its_code(error: errors.RelayError, code: str, tag: str) -> None:
    async with served(replies=lambda _: error) as client:
        call = client.manage("SetDefault", pb.SetDefaultRequest(model_name="m", model_version="1"))
        assert await refused(call) == (code, f"no\n{tag}")


async def test_where_the_model_api_is_off_nothing_else_is_looked_at() -> None:
    async with served() as client:
        for method, request in (
            ("RegisterModel", pb.RegisterModelRequest()),
            ("UnregisterModel", pb.UnregisterModelRequest(model_name="m")),
        ):
            assert await refused(client.manage(method, request)) == (
                "PERMISSION_DENIED",
                "Model API disabled\norg.pytorch.serve.archive.model.ModelException",
            )
        assert client.link.asked == []


async def test_what_torchserve_doesnt_catch_has_its_code_and_a_text() -> None:
    async with served() as client:
        code, description = await refused(client.manage("ScaleWorker", pb.ScaleWorkerRequest(min_worker=1)))
        assert (code, str(description).splitlines()[0]) == ("UNKNOWN", "Model not found: ")
    async with served(replies=lambda _: errors.ModelNotFound("Model not found: m")) as client:
        for customized, code in ((False, "NOT_FOUND"), (True, "INTERNAL")):
            request = pb.DescribeModelRequest(model_name="m", customized=customized)
            assert (await refused(client.manage("DescribeModel", request)))[0] == code


async def test_what_must_be_named_is_asked_for_in_torchserves_words() -> None:
    wanted = ("INVALID_ARGUMENT", "Parameter url is required.\norg.pytorch.serve.http.BadRequestException")
    async with served(enable_model_api=True) as client:
        assert await refused(client.manage("RegisterModel", pb.RegisterModelRequest())) == wanted
        assert await refused(client.manage("UnregisterModel", pb.UnregisterModelRequest())) == wanted
