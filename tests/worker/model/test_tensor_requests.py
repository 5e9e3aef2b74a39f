"""Requests of the open inference protocol, as handlers get them."""

import json
from typing import Any  # whatever a handler is given

import numpy as np
import pytest
from ts.context import Context

from tests.worker.model.test_runner import Input, run
from torchrelay.shared.open_inference import infer_bodies, job_inputs
from torchrelay.shared.open_inference.infer_bodies import InferRequest, Wanted, WantedOutput
from torchrelay.shared.open_inference.tensor_arrays import tensor_of
from torchrelay.shared.open_inference.tensors import Tensor
from torchrelay.shared.wire import codec
from torchrelay.worker.model import tensor_requests
from torchrelay.worker.model.held_leases import AssignedJob
from torchrelay.worker.model.inputs import Opened
from torchrelay.worker.model.loading import LoadedModel
from torchrelay.worker.model.runner import Runner

#: Of a surrogate pair in a text of JSON, which UTF-8 can't express.
HALF_A_PAIR = (
    b'{"inputs":[{"name":"x","datatype":"\\ud800","shape":[1],"parameters":{"binary_data_size":0}}]}'
)


def binary(*tensors: Tensor, is_apart: bool = False, **facts: Any) -> list[Input]:
    """Make a job's inputs as a gateway does; `is_apart` as of a call by gRPC, each tensor by itself."""
    body = infer_bodies.encode_request(InferRequest(list(tensors), **facts))
    head, *data = (bytes(piece) for piece in body.pieces)
    pieces = [head, *data] if is_apart else [body.joined()]
    kind = job_inputs.binary_request(body.header_length or 0)
    return [("body", kind, pieces[0]), *(("", "", piece) for piece in pieces[1:])]


def seen(inputs: list[Input], *, decode_input: bool = True) -> Any:
    """Return the row and the headers that a handler gets."""
    found: list[Any] = []

    def handler(data: Any, context: Context) -> object:
        found.extend((data[0], context.get_all_request_header(0)))
        return [""]

    (answer,) = run(handler, inputs, decode_input=decode_input)
    assert answer.error is None, answer
    return found


@pytest.mark.parametrize("is_apart", [False, True])
def test_a_handler_gets_the_json_with_arrays_for_data(is_apart: bool) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    texts = Tensor("t", "BYTES", [1, 2], [b"a", b"\xff"], {"kept": 1})
    inputs = binary(
        tensor_of("x", x), texts, is_apart=is_apart, id="7", parameters={"p": True},
        outputs=[WantedOutput("y")],
    )  # fmt: skip
    row, headers = seen(inputs)
    assert list(row) == ["body"]
    assert headers["body"] == {"content-type": "application/json"}
    body = row["body"]
    first, second = (one.pop("data") for one in body["inputs"])
    assert body == {
        "id": "7",
        "inputs": [
            {"name": "x", "shape": [2, 3], "datatype": "FP32"},
            {"name": "t", "shape": [1, 2], "datatype": "BYTES", "parameters": {"kept": 1}},
        ],
        "parameters": {"p": True},
        "outputs": [{"name": "y"}],
    }
    np.testing.assert_array_equal(first, x)
    assert (first.dtype, first.flags.writeable) == (np.float32, True)
    assert second.tolist() == [[b"a", b"\xff"]]


def test_tensors_in_the_json_beside_binary_ones_stay_as_they_are() -> None:
    said = {"inputs": [{"name": "a", "shape": [1, 2], "datatype": "INT8", "data": [[1, 2]]}]}
    head = json.dumps(said).encode()
    row, _ = seen([("body", job_inputs.binary_request(len(head)), head)])
    assert row["body"] == said


def test_without_numpy_data_are_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Tensor) -> Any:
        raise ModuleNotFoundError("numpy")

    monkeypatch.setattr(tensor_requests, "array_of", missing)
    row, _ = seen(binary(Tensor("x", "INT16", [2], [1, 2])))
    assert row["body"]["inputs"][0]["data"] == [1, 2]


@pytest.mark.parametrize("is_apart", [False, True])
def test_without_decoding_a_handler_gets_the_bytes(is_apart: bool) -> None:
    inputs = binary(Tensor("x", "INT8", [2], [1, 2]), is_apart=is_apart)
    row, headers = seen(inputs, decode_input=False)
    assert row == {"body": bytearray(b"".join(value for *_, value in inputs))}
    assert headers["body"] == {"content-type": "application/octet-stream"}


@pytest.mark.parametrize(
    "body", [b'{"inputs": []}', b'{"id": 7, "outputs": 1}', b"[1]", b'"x"', b"broken", b"", b'{"\\ud800": 1}']
)
def test_json_is_what_it_is_without_the_protocol(body: bytes) -> None:
    assert seen([("body", job_inputs.JSON_REQUEST, body)]) == seen([("body", "application/json", body)])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (binary(Tensor("x", "FP32", [1], b"1234"))[:1], ""),
        ([("body", job_inputs.binary_request(9), b"{}")], "said to have 9 bytes; 2 have come"),
        ([("body", job_inputs.binary_request(2), b"{}")], "missing required field `inputs`"),
        ([("body", job_inputs.binary_request(1), b"{}")], "is not JSON"),
        (
            [("body", job_inputs.binary_request(len(HALF_A_PAIR)), HALF_A_PAIR)],
            "the datatype is ?, not one of",
        ),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_alone(inputs: list[Input], said: str) -> None:
    good = binary(Tensor("x", "FP32", [1], [1.0]))
    calls: list[int] = []

    def handler(data: Any, _: Context) -> object:
        calls.append(len(data))
        return ["good"] * len(data)

    first, second, third = run(handler, good, inputs, good)
    assert first.body == third.body == b"good"
    if not said:
        assert (second.body, calls) == (b"good", [3])
        return
    assert calls == [2]
    assert (second.status, second.error and second.error[0]) == (400, "BadRequest")
    assert second.error is not None
    assert said in second.error[1]


def test_an_answer_in_parts_stays_json_from_call_to_call() -> None:
    context = Context("m", "/", {}, 1, None, "0")
    runner = Runner(model=LoadedModel(lambda *_: [], context), decode_input=True, response_limit_bytes=100)
    job = runner.open(AssignedJob(*codec.pack_request("id", (), binary(Tensor("x", "INT8", [1], [1])))))
    assert isinstance(job, Opened)
    for known, is_told in ((0, True), (1, False)):
        runner.begin(context, [job], known=known)
        assert (context.request_processor[0].tensor_request is not None) == is_told


def opened(*inputs: Input) -> tensor_requests.TensorRequest:
    meta, frames = codec.pack_request("request-id", (), inputs)
    request, values = codec.unpack_request(meta, [bytes(one) for one in frames])
    manifest = {"model": {"modelVersion": "1.5"}}
    return tensor_requests.opened(
        request, values, Context("m", "/", manifest, 1, None, "0"), decode_input=True
    )


def test_what_an_answer_says_is_known_from_the_request_and_the_model() -> None:
    given = opened(*binary(Tensor("x", "INT8", [0], b""), id="mine"))
    assert given.facts() == {"id": "mine", "model_name": "m", "model_version": "1.5"}
    assert opened(*binary(Tensor("x", "INT8", [0], b""))).id == "request-id"
    assert opened(("body", job_inputs.JSON_REQUEST, b'{"id": "theirs"}')).id == "theirs"


def test_what_is_wanted_is_read_from_json_as_well() -> None:
    said = {"parameters": {"binary_data_output": True},
            "outputs": [{"name": "y", "parameters": {"binary_data": False}}]}  # fmt: skip
    request = opened(("body", job_inputs.JSON_REQUEST, json.dumps(said).encode()))
    assert request.wanted == Wanted(by_default=True, named={"y": False})
