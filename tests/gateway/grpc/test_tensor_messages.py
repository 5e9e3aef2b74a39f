"""Messages of the open inference protocol become jobs, and answers messages."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shared.open_inference.test_tensors import tensors
from torchrelay.gateway.grpc import tensor_messages
from torchrelay.gateway.grpc.protos import open_inference_pb2 as pb
from torchrelay.shared import errors
from torchrelay.shared.open_inference import infer_bodies, job_inputs
from torchrelay.shared.open_inference.infer_bodies import InferResponse, Wanted
from torchrelay.shared.open_inference.tensors import Tensor, TensorError
from torchrelay.shared.wire import codec

FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT64": "int64_contents", "UINT16": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def asked(*inputs: dict[str, Any], **more: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name="m", inputs=inputs, **more)


def raw(*given: Tensor, **more: Any) -> pb.ModelInferRequest:
    inputs = [{"name": one.name, "datatype": one.datatype, "shape": one.shape} for one in given]
    return asked(*inputs, raw_input_contents=[bytes(one.packed()) for one in given], **more)


def said(request: pb.ModelInferRequest) -> Any:
    ((name, kind, value),) = tensor_messages.job_of(request)
    assert (name, kind) == ("body", job_inputs.JSON_REQUEST)
    return json.loads(bytes(value))  # type: ignore[arg-type]


def answered(
    answer: object, request: pb.ModelInferRequest | None = None, *, quotes_bytes: bool = False
) -> pb.ModelInferResponse:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    response = codec.Response(200, "", (), body)
    return tensor_messages.answer_of(request or asked(), response, body, quotes_bytes=quotes_bytes)


def test_a_request_is_the_json_that_torchserves_handlers_get() -> None:
    request = asked(
        {"name": "x", "datatype": "FP32", "shape": [2], "contents": {"fp32_contents": [1.5, -2]}},
        {"name": "t", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"\xff"]}},
        id="7",
    )
    assert said(request) == {
        "model_name": "m",
        "inputs": [
            {"shape": [2], "data": [1.5, -2.0], "datatype": "FP32", "name": "x"},
            {"shape": [1], "data": [b64encode(b"\xff").decode()], "datatype": "BYTES", "name": "t"},
        ],
        "id": "7",
    }


def test_parameters_and_wanted_outputs_are_said_where_there_are_any() -> None:
    request = asked(
        {"name": "x", "datatype": "INT8", "shape": [0], "parameters": {"a": {"bool_param": True}}},
        parameters={"b": {"int64_param": 3}, "c": {"string_param": "s"}, "d": {"double_param": 0.5}, "e": {}},
        outputs=[{"name": "y", "parameters": {"f": {"uint64_param": 2**64 - 1}}}, {"name": "z"}],
    )
    told = said(request)
    assert told["inputs"][0]["parameters"] == {"a": True}
    assert told["parameters"] == {"b": 3, "c": "s", "d": 0.5}
    assert told["outputs"] == [{"name": "y", "parameters": {"f": 2**64 - 1}}, {"name": "z"}]


@given(st.lists(tensors(), min_size=1, max_size=4))
def test_raw_contents_reach_a_worker_as_binary_data_each_by_itself(given: list[Tensor]) -> None:
    head, *data = tensor_messages.job_of(raw(*given, id="7"))
    assert [value for _, _, value in data] == [one.packed() for one in given]
    assert {(name, kind) for name, kind, _ in data} == {("", "")}
    assert head[0] == "body"
    pieces: Any = [value for _, _, value in (head, *data)]
    request = infer_bodies.decode_request(pieces, job_inputs.header_length_in(head[1]))
    assert [one.packed() for one in request.inputs] == [one.packed() for one in given]
    assert (request.id, request.model_name, request.wanted) == ("7", "m", Wanted(by_default=True))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (asked(raw_input_contents=[b""]), "0 inputs and 1 entries of raw_input_contents"),
        (asked({"name": "x"}, {"name": "y"}, raw_input_contents=[b""]), "2 inputs and 1 entries"),
        (asked({"name": "x", "contents": {}}, raw_input_contents=[b""]), "has contents as well"),
    ],
)
def test_raw_contents_are_those_of_all_inputs_or_of_none(request_: pb.ModelInferRequest, said: str) -> None:
    with pytest.raises(errors.BadRequest, match=said):
        tensor_messages.job_of(request_)


@given(st.lists(tensors().filter(lambda one: one.datatype in FIELDS), max_size=4))
def test_an_answer_has_its_elements_in_the_fields_of_their_types(given: list[Tensor]) -> None:
    outputs = [
        {"name": one.name, "datatype": one.datatype, "shape": one.shape,
         "data": [element.hex() if isinstance(element, bytes) else element for element in one.values()]}
        for one in given
    ]  # fmt: skip
    got = answered({"id": "7", "model_name": "n", "model_version": "2", "outputs": outputs})
    assert (got.id, got.model_name, got.model_version) == ("7", "n", "2")
    assert not got.raw_output_contents
    for output, one in zip(got.outputs, given, strict=True):
        assert (output.name, output.datatype, list(output.shape)) == (one.name, one.datatype, list(one.shape))
        assert [field.name for field, _ in output.contents.ListFields()] == [FIELDS[one.datatype]] * bool(
            one.count
        )
        wanted = [value.hex().encode() if isinstance(value, bytes) else value for value in one.values()]
        assert list(getattr(output.contents, FIELDS[one.datatype])) == wanted


@given(st.lists(tensors(), min_size=1, max_size=4))
def test_a_raw_request_has_a_raw_answer(given: list[Tensor]) -> None:
    encoded = infer_bodies.encode_response(InferResponse(given), Wanted(by_default=True))
    headers = (("inference-header-content-length", str(encoded.header_length)),)
    response = codec.Response(200, "", headers, encoded.joined())
    got = tensor_messages.answer_of(raw(*given), response, encoded.joined(), quotes_bytes=True)
    assert list(got.raw_output_contents) == [one.packed() for one in given]
    assert not any(one.HasField("contents") for one in got.outputs)


def test_a_raw_request_has_a_raw_answer_from_a_handler_that_says_json() -> None:
    answer = {"outputs": [{"name": "y", "datatype": "INT16", "shape": [2], "data": [1, 2]}]}
    got = answered(answer, raw(Tensor("x", "INT8", [1], [1]), id="7", model_version="3"))
    assert list(got.raw_output_contents) == [b"\1\0\2\0"]
    # What a handler doesn't say is the request's.
    assert (got.id, got.model_name, got.model_version) == ("7", "m", "3")


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_what_has_no_field_is_raw(datatype: str) -> None:
    outputs = [
        {"name": "y", "datatype": datatype, "shape": [1], "data": [1.5]},
        {"name": "z", "datatype": "INT8", "shape": [1], "data": [1]},
    ]
    got = answered({"outputs": outputs})
    assert [len(one) for one in got.raw_output_contents] == [2, 1]


@pytest.mark.parametrize(
    ("value", "plain", "quoted"),
    [
        ("a", b"a", b'"a"'),
        ("ä", "ä".encode(), '"ä"'.encode()),
        ({"b": 1}, b'{"b":1}', b'{"b":1}'),
        (1, b"1", b"1"),
    ],
)
def test_an_element_of_bytes_is_what_it_is_or_json_as_torchserve_has_it(
    value: object, plain: bytes, quoted: bytes
) -> None:
    answer = {"outputs": [{"name": "y", "datatype": "BYTES", "shape": [1], "data": [value]}]}
    for is_quoted, wanted in ((False, plain), (True, quoted)):
        (output,) = answered(answer, quotes_bytes=is_quoted).outputs
        assert list(output.contents.bytes_contents) == [wanted]


def test_parameters_of_an_answer_keep_their_types() -> None:
    parameters = {"a": True, "b": 3, "c": 0.5, "d": "s", "e": [1], "f": 2**70}
    got = answered({"parameters": parameters, "outputs": []})
    assert {name: str(value).strip() for name, value in got.parameters.items()} == {
        "a": "bool_param: true", "b": "int64_param: 3", "c": "double_param: 0.5", "d": 'string_param: "s"',
    }  # fmt: skip


@pytest.mark.parametrize(
    "output",
    [
        {"datatype": "INT8", "data": ["a"]},
        {"datatype": "INT8", "data": [2**40]},
        {"datatype": "UINT8", "data": [-1]},
        {"datatype": "INT8", "data": [float("inf")]},
        {"datatype": "FP32", "data": [None]},
        {"datatype": "BOOL", "data": ["true"]},
        {"datatype": "FP32", "data": [[1.0], 2.0]},
        {"datatype": "FP16", "data": ["a"]},
        {"datatype": "FP32", "data": 7},
        {"datatype": "FP32"},
    ],
)
def test_an_answer_that_is_none_is_an_error(output: dict[str, Any]) -> None:
    with pytest.raises(TensorError):
        answered({"outputs": [{"name": "y", "shape": [1], **output}]})


@given(st.binary(max_size=40))
def test_any_answer_is_a_message_or_an_error(body: bytes) -> None:
    try:
        answered(body)
    except TensorError as error:
        assert "is not JSON" in str(error) or "no message" in str(error)  # noqa: PT017  # either is right
