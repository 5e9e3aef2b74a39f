"""The open inference protocol through real processes: JSON, binary data, gRPC, errors, what KServe asks."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import pytest
from google.protobuf.message import Message

from tests.integration.archives import make
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually
from torchrelay.gateway.grpc.protos import inference_pb2
from torchrelay.gateway.grpc.protos import open_inference_pb2 as pb
from torchrelay.shared.open_inference import infer_bodies
from torchrelay.shared.open_inference.infer_bodies import InferRequest, InferResponse
from torchrelay.shared.open_inference.tensor_arrays import array_of, tensor_of
from torchrelay.shared.open_inference.tensors import Tensor

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "open-inference.md"
SERVICE = "inference.GRPCInferenceService"
#: Answers with its inputs' own arrays, and says what they were.
MIRROR = """
import numpy as np

def handle(data, context):
    if data is None:
        return None
    if context.get_request_header(0, "describe") == "True":
        return [{"takes": "anything"}]
    return [answer(row) for row in data]

def answer(row):
    body = row.get("body") or row.get("data")
    if not isinstance(body, dict):
        return bytes(body)
    if "inputs" not in body:
        return {"predictions": body["instances"]}
    outputs = [{"name": one["name"], "datatype": one["datatype"], "shape": one["shape"], "data": one["data"]}
               for one in body["inputs"]]
    kinds = [f"{type(one['data']).__name__} {getattr(one['data'], 'dtype', '')}" for one in body["inputs"]]
    return {"parameters": {"kinds": ", ".join(kinds)}, "outputs": outputs}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("open_inference")
    store = folder / "models"
    store.mkdir()
    make(store, "sums", code=(ROOT / "examples" / "tensors" / "handler.py").read_text())
    make(store, "mirror", code=MIRROR, config="batchSize: 4\nmaxBatchDelay: 200\n")
    (folder / "config.properties").write_text("ts_open_inference_protocol=true\nmax_request_size=3000000\n")
    with fleet(folder, store) as made:
        made.serve(
            "--ts-config", str(folder / "config.properties"), "--models", "all", "--enable-model-api",
            "--grpc", "--grpc-inference", f"{made.address}:7070", "--grpc-management", f"{made.address}:7071",
        )  # fmt: skip
        eventually(lambda: made.ready("sums") and made.ready("mirror"))
        yield made


@pytest.fixture
def channel(served: Fleet) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"{served.address}:7070") as made:
        yield made


def call(
    channel: grpc.Channel, method: str, request: Message, answer: type[Message], service: str = SERVICE
) -> Any:
    made: Any = channel.unary_unary(f"/{service}/{method}", response_deserializer=answer.FromString)
    return made(request.SerializeToString(), timeout=60, wait_for_ready=True)


def infer(served: Fleet, model: str, request: InferRequest, *, is_binary: bool = True) -> InferResponse:
    body = infer_bodies.encode_request(request, is_binary=is_binary)
    answer = post(served, model, body.joined(), body.headers())
    assert answer.status_code == 200, answer.text
    said = answer.headers.get(infer_bodies.HEADER_LENGTH)
    return infer_bodies.decode_response(
        [answer.content], infer_bodies.header_length_of(said, len(answer.content))
    )


def post(served: Fleet, model: str, body: bytes, headers: dict[str, str]) -> httpx2.Response:
    return served.http.post(f"{served.inference}/v2/models/{model}/infer", content=body, headers=headers)


WANTED: dict[str, Any] = {"parameters": {"binary_data_output": True}}
X = np.arange(6, dtype=np.float32).reshape(2, 3)
#: Large enough for memory that is lent, and for frames of their own.
LARGE = np.arange(200_000, dtype=np.int64).reshape(400, 500)


def test_the_page_is_true_of_its_example(served: Fleet) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    client = next(block for block in blocks if "urlopen" in block)
    program = client.replace("http://127.0.0.1:8080", served.inference)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[ 3. 12.]" in done.stdout
    curl = re.search(r"-d '(\{.*?\})'\n", PAGE.read_text())
    assert curl is not None
    answer = post(served, "sums", curl[1].encode(), {"Content-Type": "application/json"})
    assert answer.json()["outputs"][0]["data"] == [3.0, 7.0]
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("wanted", [WANTED, {}])
def test_arrays_come_and_go_in_every_way(served: Fleet, is_binary: bool, wanted: dict[str, Any]) -> None:
    said = infer(served, "sums", InferRequest([tensor_of("x", X)], id="7", **wanted), is_binary=is_binary)
    (output,) = said.outputs
    np.testing.assert_array_equal(array_of(output), X.sum(axis=1))
    assert output.is_packed == bool(wanted)
    assert (said.id, said.model_name, said.model_version) == ("7", "sums", "1.0")


def test_every_datatype_goes_through_as_binary_data(served: Fleet) -> None:
    given = [
        Tensor("a", "BOOL", [2], [True, False]), Tensor("b", "UINT64", [1], [2**64 - 1]),
        Tensor("c", "INT8", [2, 1], [-128, 127]), Tensor("d", "FP16", [1], [1.5]),
        Tensor("e", "BYTES", [2], [b"", b"\xff\0"]), Tensor("f", "FP64", [0, 3], []), tensor_of("g", LARGE),
    ]  # fmt: skip
    said = infer(served, "mirror", InferRequest(given, **WANTED))
    assert [one.packed() for one in said.outputs] == [one.packed() for one in given]
    kinds = ("bool", "uint64", "int8", "float16", "object", "float64", "int64")
    assert said.parameters == {"kinds": ", ".join(f"ndarray {kind}" for kind in kinds)}


def test_by_grpc_raw_contents_go_through_as_they_are(served: Fleet, channel: grpc.Channel) -> None:
    tensors = [
        {"name": "x", "datatype": "FP32", "shape": X.shape},
        {"name": "y", "datatype": "INT64", "shape": LARGE.shape},
    ]
    request = pb.ModelInferRequest(
        model_name="mirror", id="7", inputs=tensors, raw_input_contents=[X.tobytes(), LARGE.tobytes()]
    )
    answer = call(channel, "ModelInfer", request, pb.ModelInferResponse)
    assert list(answer.raw_output_contents) == [X.tobytes(), LARGE.tobytes()]
    assert (answer.id, answer.model_name, answer.model_version) == ("7", "mirror", "1.0")
    assert answer.parameters["kinds"].string_param == "ndarray float32, ndarray int64"


def test_by_grpc_contents_are_lists_as_in_torchserve(served: Fleet, channel: grpc.Channel) -> None:
    tensor = {"name": "x", "datatype": "INT32", "shape": [2], "contents": {"int_contents": [1, 2]}}
    answer = call(
        channel,
        "ModelInfer",
        pb.ModelInferRequest(model_name="mirror", inputs=[tensor]),
        pb.ModelInferResponse,
    )
    assert list(answer.outputs[0].contents.int_contents) == [1, 2]
    assert answer.parameters["kinds"].string_param == "list "


def test_a_request_that_is_wrong_fails_alone(served: Fleet) -> None:
    good = infer_bodies.encode_request(InferRequest([tensor_of("x", X)], **WANTED))
    head, data = good.joined()[: good.header_length], X.tobytes()
    wrong = {
        "has 324": (head.replace(b"[2,3]", b"[9,9]"), data),
        "23 bytes are left": (head, data[:-1]),
        "the datatype is FP31": (head.replace(b"FP32", b"FP31"), data),
        "is not JSON": (b"x" + head[1:], data),
    }

    def ask(head: bytes, data: bytes) -> httpx2.Response:
        return post(served, "mirror", head + data, {infer_bodies.HEADER_LENGTH: str(len(head))})

    with ThreadPoolExecutor(8) as pool:  # side by side, so that they may be of one batch
        fine = [pool.submit(ask, head, data) for _ in range(4)]
        faulty = {said: pool.submit(ask, *parts) for said, parts in wrong.items()}
    assert [one.result().status_code for one in fine] == [200] * 4
    for said, answer in faulty.items():
        assert answer.result().status_code == 400
        assert said in answer.result().json()["error"]


def test_by_grpc_errors_have_their_codes(served: Fleet, channel: grpc.Channel) -> None:
    def code(**more: Any) -> tuple[str, str]:
        request = pb.ModelInferRequest(**{"model_name": "mirror", **more})
        with pytest.raises(grpc.RpcError) as raised:
            call(channel, "ModelInfer", request, pb.ModelInferResponse)
        error: Any = raised.value
        return error.code().name, error.details()

    tensor = {"name": "x", "datatype": "FP32", "shape": [3]}
    assert code(inputs=[tensor], raw_input_contents=[b"1234"])[0] == "INVALID_ARGUMENT"
    assert "4 bytes of data" in code(inputs=[tensor], raw_input_contents=[b"1234"])[1]
    assert code(inputs=[{**tensor, "shape": [-1]}], raw_input_contents=[b"1234"])[0] == "INVALID_ARGUMENT"
    assert code(model_name="nobody") == (
        "INTERNAL", "Model not found: nobody\norg.pytorch.serve.archive.model.ModelNotFoundException",
    )  # fmt: skip
    assert code(inputs=[tensor], raw_input_contents=[bytes(4_000_000)])[0] == "RESOURCE_EXHAUSTED"
    # What a handler refuses has its status.
    assert code(model_name="sums")[0] == "INVALID_ARGUMENT"


def test_health_and_metadata_say_the_same_by_both(served: Fleet, channel: grpc.Channel) -> None:
    told = served.http.get(f"{served.inference}/v2/models/sums").json()
    model = call(channel, "ModelMetadata", pb.ModelMetadataRequest(name="sums"), pb.ModelMetadataResponse)
    assert (told["name"], told["versions"]) == (model.name, list(model.versions)) == ("sums", ["1.0"])
    for path in ("/v2/health/ready", "/v2/models/sums/ready", "/v2/models/sums/versions/1.0/ready"):
        assert served.http.get(f"{served.inference}{path}").json()["ready"] is True
    assert call(channel, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    assert call(channel, "ModelReady", pb.ModelReadyRequest(name="sums"), pb.ModelReadyResponse).ready
    server = call(channel, "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert served.http.get(f"{served.inference}/v2").json()["extensions"] == list(server.extensions)


def test_what_kserves_wrapper_asks_is_answered(served: Fleet, channel: grpc.Channel) -> None:
    """Ask as its TorchserveModel does: register, describe until it is ready, predict in each of its ways."""
    register = f"{served.management}/models?initial_workers=1&url=mirror.mar&model_name=wrapped"
    assert served.http.post(register).status_code == 200
    (described,) = served.http.get(f"{served.management}/models/wrapped?customized=true").json()
    assert described["customizedMetadata"] == {"takes": "anything"}
    assert [one["status"] for one in described["workers"]] == ["READY"]
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    v1 = f"{served.inference}/v1/models/wrapped"
    for verb in ("predict", "explain"):
        answer = served.http.post(f"{v1}:{verb}", content=b'{"instances": [1, 2]}', headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"predictions": [1, 2]})
    tensor = {"name": "x", "shape": [2], "datatype": "INT32", "data": [1, 2]}
    answer = post(served, "wrapped", json.dumps({"id": "1", "inputs": [tensor]}).encode(), headers)
    assert answer.json()["outputs"] == [tensor]
    request = inference_pb2.PredictionsRequest(model_name="wrapped", input={"data": b"a picture"})
    predicted = call(
        channel, "Predictions", request, inference_pb2.PredictionResponse,
        "org.pytorch.serve.grpc.inference.InferenceAPIsService",
    )  # fmt: skip
    assert predicted.prediction == b"a picture"
    assert served.http.delete(f"{served.management}/models/wrapped").status_code == 200
