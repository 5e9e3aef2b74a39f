"""The open inference protocol's service, by both of its names."""

import json
from typing import Any

import pytest
from google.protobuf.message import Message

from tests.gateway.api.test_metadata import of_models
from tests.gateway.fakes import echo
from tests.gateway.grpc.serving import DEADLINE_S, Client, refused, served
from tests.gateway.grpc.test_inference_service import Silent
from tests.support import eventually_async
from torchrelay.gateway.grpc.open_inference_service import SERVICE, TORCHSERVES_SERVICE
from torchrelay.gateway.grpc.protos import open_inference_pb2 as pb
from torchrelay.shared import errors
from torchrelay.shared.open_inference import infer_bodies
from torchrelay.shared.open_inference.infer_bodies import InferResponse, Wanted
from torchrelay.shared.open_inference.tensors import Tensor
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

pytestmark = pytest.mark.usefixtures("each_server")

ON: dict[str, Any] = {"open_inference_protocol": True}
NAMES = (SERVICE, TORCHSERVES_SERVICE)


def call(
    client: Client, method: str, request: Message | bytes, service: str = SERVICE, **options: Any
) -> Any:
    data = request if isinstance(request, bytes) else request.SerializeToString()
    made: Any = client.channels["inference"].unary_unary(
        f"/{service}/{method}", response_deserializer=getattr(pb, f"{method}Response").FromString
    )
    return made(data, **{"timeout": DEADLINE_S, **options})


def infer(client: Client, service: str = SERVICE, **more: Any) -> Any:
    tensor = {"name": "x", "datatype": "INT8", "shape": [1], "contents": {"int_contents": [1]}}
    options = {name: more.pop(name) for name in ("timeout", "metadata") if name in more}
    request = pb.ModelInferRequest(**{"model_name": "m", "inputs": [tensor], **more})
    return call(client, "ModelInfer", request, service, **options)


def outputs(*texts: str) -> codec.Response:
    told = {"name": "y", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
    return codec.Response(200, "", (), json.dumps({"outputs": [told]}).encode())


def test_the_names_are_the_protocols_and_torchserves() -> None:
    assert NAMES == (
        "inference.GRPCInferenceService", "org.pytorch.serve.grpc.openinference.GRPCInferenceService",
    )  # fmt: skip


@pytest.mark.parametrize("service", NAMES)
async def test_a_prediction_is_a_job_and_its_answer_a_message(service: str) -> None:
    async with served(lambda *_: outputs("a"), **ON) as client:
        got = await infer(client, service, model_version="1.0", id="7")
        assert (got.model_name, got.model_version, got.id) == ("m", "1.0", "7")
        assert list(got.outputs[0].contents.bytes_contents) == [b"a" if service == SERVICE else b'"a"']
        (job,) = client.link.submitted
        assert (job.model, job.version) == ("m", "1.0")
        assert 0 < job.left_ms < 2000 * DEADLINE_S
        assert client.link.requests[0].headers == ()


async def test_raw_contents_go_in_and_out_as_they_are() -> None:
    def worker(_request: codec.Request, values: list[bytes]) -> codec.Response:
        answer = InferResponse([Tensor("y", "FP32", [2], values[1])])
        body = infer_bodies.encode_response(answer, Wanted(by_default=True))
        headers = (("inference-header-content-length", str(body.header_length)),)
        return codec.Response(200, "", headers, body.joined())

    async with served(worker, **ON) as client:
        tensor = {"name": "x", "datatype": "FP32", "shape": [2]}
        got = await infer(client, inputs=[tensor], raw_input_contents=[b"12345678"])
        assert list(got.raw_output_contents) == [b"12345678"]
        assert (got.outputs[0].datatype, list(got.outputs[0].shape)) == ("FP32", [2])


async def test_of_an_answer_in_parts_the_first_is_all() -> None:
    async with served(lambda *_: [outputs("first"), outputs("second")], **ON) as client:
        assert list((await infer(client)).outputs[0].contents.bytes_contents) == [b"first"]


@pytest.mark.parametrize("service", NAMES)
async def test_health_and_metadata_are_told(service: str) -> None:
    def replies(ask: Any) -> Any:
        return m.HealthRead(ask.ask, healthy=True) if isinstance(ask, m.ReadHealth) else of_models(ask)

    async with served(replies=replies, **ON) as client:
        assert (await call(client, "ServerLive", pb.ServerLiveRequest(), service)).live
        assert (await call(client, "ServerReady", pb.ServerReadyRequest(), service)).ready
        told = await call(client, "ServerMetadata", pb.ServerMetadataRequest(), service)
        assert (told.name, list(told.extensions)) == (
            "Torchserve",
            ["kserve", "kubeflow", "binary_tensor_data"],
        )
        for version, is_ready in (("", True), ("1.0", True), ("2.0", False)):
            asked = pb.ModelReadyRequest(name="m", version=version)
            assert (await call(client, "ModelReady", asked, service)).ready == is_ready
        told = await call(client, "ModelMetadata", pb.ModelMetadataRequest(name="m", version="2.0"), service)
        assert (told.name, list(told.versions)) == ("m", ["1.0", "2.0"])


@pytest.mark.parametrize(
    ("method", "request_", "code", "said"),
    [
        ("ModelReady", pb.ModelReadyRequest(), "INTERNAL", "Parameter name is required."),
        ("ModelReady", pb.ModelReadyRequest(name="nobody"), "NOT_FOUND", "Model not found: nobody"),
        (
            "ModelReady",
            pb.ModelReadyRequest(name="m", version="9"),
            "NOT_FOUND",
            "Model version: 9 does not exist",
        ),
        ("ModelMetadata", pb.ModelMetadataRequest(), "INTERNAL", "Parameter model_name is required."),
        ("ModelMetadata", pb.ModelMetadataRequest(name="nobody"), "NOT_FOUND", "Model not found: nobody"),
        ("ModelMetadata", pb.ModelMetadataRequest(name="m", version="9"), "NOT_FOUND", "Model version: 9"),
        ("ModelInfer", pb.ModelInferRequest(), "INTERNAL", "Parameter model_name is required."),
        ("ModelInfer", b"\xff\xff\xff\xff", "INTERNAL", "can't be read as the message"),
    ],
)
async def test_what_is_wrong_is_said(method: str, request_: Any, code: str, said: str) -> None:
    async with served(replies=of_models, **ON) as client:
        got, description = await refused(call(client, method, request_))
        assert got == code
        assert said in (description or "")


def many(count: int) -> list[dict[str, Any]]:
    return [{"name": "x", "datatype": "INT8", "shape": [0]} for _ in range(count)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"raw_input_contents": [b"", b""]}, "1 inputs and 2 entries of raw_input_contents"),
        ({"inputs": many(1001), "raw_input_contents": [b""] * 1001}, "more than 1000 inputs"),
    ],
)
async def test_tensors_that_cannot_be_are_an_invalid_argument(more: dict[str, Any], said: str) -> None:
    async with served(**ON) as client:
        code, description = await refused(infer(client, **more))
        assert code == "INVALID_ARGUMENT"
        assert said in (description or "")
        assert not client.link.submitted


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (
            codec.Response(400, "", (), b"", error=("BadRequest", "Tensor 'x': no", "")),
            "INVALID_ARGUMENT",
            "Tensor 'x': no",
        ),
        (errors.ModelNotFound("Model not found: m"), "INTERNAL", "Model not found: m"),
        (
            codec.Response(200, "", (), b"no JSON"),
            "INTERNAL",
            "none of the open inference protocol: The body is not JSON",
        ),
        (
            codec.Response(200, "", (), b'{"outputs": [], "id": "\\ud800"}'),
            "INTERNAL",
            "none of the open inference protocol: 'utf-8' codec can't encode",
        ),
        (
            codec.Response(200, "", (), b'{"outputs": 1}'),
            "INTERNAL",
            "Expected `array`, got `int` - at `$.outputs`",
        ),
        (
            codec.Response(200, "", (("inference-header-content-length", "9"),), b"{}"),
            "INTERNAL",
            "says 9 bytes of JSON",
        ),
    ],
)
async def test_what_comes_back_is_an_answer_or_an_error(answer: Any, code: str, said: str) -> None:
    async with served(lambda *_: answer, **ON) as client:
        got, description = await refused(infer(client))
        assert got == code
        assert said in (description or "")
        # The connection goes on.
        assert (await call(client, "ServerLive", pb.ServerLiveRequest())).live


async def test_a_job_ends_with_its_calls_deadline() -> None:
    async with served(link_type=Silent, **ON) as client:
        code, _ = await refused(infer(client, timeout=0.2))
        assert code == "DEADLINE_EXCEEDED"
        await eventually_async(lambda: len(client.link.cancelled) == 1)


@pytest.mark.parametrize("service", NAMES)
@pytest.mark.parametrize("method", ["ServerLive", "ModelInfer"])
async def test_it_asks_for_the_key_of_inference(service: str, method: str) -> None:
    async with served(token_authorization=True, **ON) as client:
        code, _ = await refused(call(client, method, b"", service))
        assert code == "PERMISSION_DENIED"


@pytest.mark.parametrize("service", NAMES)
async def test_it_is_there_only_where_it_is_on(service: str) -> None:
    async with served(echo) as client:
        code, description = await refused(call(client, "ServerLive", b"", service))
        assert (code, description) == ("UNIMPLEMENTED", f"Method not found: {service}/ServerLive")


async def test_what_is_larger_than_max_request_size_is_refused() -> None:
    async with served(max_request_size=1000, **ON) as client:
        code, _ = await refused(infer(client, raw_input_contents=[bytes(2000)]))
        assert code == "RESOURCE_EXHAUSTED"
