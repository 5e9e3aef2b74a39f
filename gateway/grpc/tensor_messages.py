"""Messages of the open inference protocol: a request becomes a job's inputs, an answer a message. Pure.

Handlers get what TorchServe gives theirs: the request as JSON, BYTES in it in base64. Raw contents, of which
TorchServe takes no notice, reach them as the binary data of HTTP do. An answer is raw where its request is,
and where it has a datatype for which messages have no field.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from torchrelay.gateway.calls.prediction_jobs import Input
from torchrelay.gateway.grpc.protos.open_inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)
from torchrelay.shared import errors
from torchrelay.shared.open_inference import infer_bodies, job_inputs
from torchrelay.shared.open_inference.infer_bodies import InferResponse
from torchrelay.shared.open_inference.tensors import Parameters, Tensor, TensorError
from torchrelay.shared.wire import codec

T = TypeVar("T", bound=Message)

#: Datatype -> the field of its elements.
_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
#: Those whose elements have no field: their tensors are always raw.
_RAW_ALONE = ("FP16", "BF16")


def job_of(request: ModelInferRequest) -> list[Input]:
    """Return what a request is as a job's inputs. Raises BadRequest."""
    raw = list(request.raw_input_contents)
    if not raw:
        said = _said(request, map(_with_contents, request.inputs))
        return [("body", job_inputs.JSON_REQUEST, _json(said))]
    if len(raw) != len(request.inputs):
        raise errors.BadRequest(
            f"The request has {len(request.inputs)} inputs and {len(raw)} entries of raw_input_contents."
        )
    if any(one.HasField("contents") for one in request.inputs):
        raise errors.BadRequest("The request has raw_input_contents, and an input has contents as well.")
    inputs = (_with_size(one, len(data)) for one, data in zip(request.inputs, raw, strict=True))
    said = _said(request, inputs)
    parameters = said.setdefault("parameters", {})
    parameters[infer_bodies.ALL_WANTED] = True
    head = _json(said)
    return [("body", job_inputs.binary_request(len(head)), head), *(("", "", data) for data in raw)]


def answer_of(
    request: ModelInferRequest, response: codec.Response, body: codec.Payload, *, quotes_bytes: bool
) -> ModelInferResponse:
    """Return the message for a handler's answer; with `quotes_bytes` each of BYTES is JSON, as in TorchServe.

    Raises TensorError for an answer that is none of the protocol.
    """
    said = infer_bodies.decode_response([body], _header_length(response, len(body)))
    made = ModelInferResponse(
        model_name=said.model_name or request.model_name,
        model_version=said.model_version or request.model_version,
        id=said.id or request.id,
    )
    _set_parameters(made.parameters, said.parameters)
    if request.raw_input_contents or any(_is_raw(one) for one in said.outputs):
        _add_raw(made, said)
    else:
        for one in said.outputs:
            output = _described(made, one)
            _fill(output.contents, one, quotes_bytes=quotes_bytes)
            output.contents.SetInParent()
    return made


def _header_length(response: codec.Response, body_length: int) -> int | None:
    headers = {name.lower(): value for name, value in response.headers}
    return infer_bodies.header_length_of(headers.get(infer_bodies.HEADER_LENGTH.lower()), body_length)


def _said(request: ModelInferRequest, inputs: Iterable[dict[str, Any]]) -> dict[str, Any]:  # Any: JSON
    """Return what a request says as the JSON object that a handler gets, its names in TorchServe's order."""
    said: dict[str, Any] = {"model_name": request.model_name, "inputs": list(inputs), "id": request.id}
    if request.parameters:
        said["parameters"] = _parameters(request.parameters)
    if request.outputs:
        said["outputs"] = [
            {"name": one.name, "parameters": _parameters(one.parameters)} if one.parameters
            else {"name": one.name}
            for one in request.outputs
        ]  # fmt: skip
    return said


def _with_contents(one: ModelInferRequest.InferInputTensor) -> dict[str, Any]:
    said: dict[str, Any] = {"shape": list(one.shape)}
    if field := _FIELDS.get(one.datatype):
        values = list(getattr(one.contents, field))
        is_bytes = one.datatype == "BYTES"
        said["data"] = [b64encode(value).decode() for value in values] if is_bytes else values
    said |= {"datatype": one.datatype, "name": one.name}
    return {**said, "parameters": _parameters(one.parameters)} if one.parameters else said


def _with_size(one: ModelInferRequest.InferInputTensor, size: int) -> dict[str, Any]:
    parameters = {**_parameters(one.parameters), infer_bodies.SIZE: size}
    return {
        "name": one.name, "shape": list(one.shape), "datatype": one.datatype, "parameters": parameters,
    }  # fmt: skip


def _parameters(given: Mapping[str, InferParameter]) -> Parameters:
    found: Parameters = {}
    for name, parameter in given.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is not None:
            found[name] = getattr(parameter, choice)
    return found


def _json(said: dict[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode()


def _is_raw(tensor: Tensor) -> bool:
    return tensor.is_packed or tensor.datatype in _RAW_ALONE


def _add_raw(made: ModelInferResponse, said: InferResponse) -> None:
    for one in said.outputs:
        _described(made, one)
        made.raw_output_contents.append(bytes(one.packed()))


def _described(made: ModelInferResponse, tensor: Tensor) -> ModelInferResponse.InferOutputTensor:
    output = made.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    _set_parameters(output.parameters, tensor.parameters)
    return output


def _fill(contents: InferTensorContents, tensor: Tensor, *, quotes_bytes: bool) -> None:
    """Add a tensor's elements, as many as there are."""
    field = _FIELDS.get(tensor.datatype)
    if field is None:
        return  # as TorchServe does with a datatype that it doesn't know
    data = tensor.data
    assert isinstance(data, list)
    values: Sequence[Any] = tensor.values() if data and isinstance(data[0], list) else data
    try:
        getattr(contents, field).extend(_made_of(tensor.datatype, quotes_bytes)(values))
    except (TypeError, ValueError, OverflowError) as error:
        raise TensorError(f"{tensor}: its data are not of {tensor.datatype}: {error}") from error


def _made_of(datatype: str, quotes_bytes: bool) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return what makes elements of values in JSON."""
    if datatype == "BYTES":
        return lambda values: [_bytes(value, is_quoted=quotes_bytes) for value in values]
    if "INT" in datatype:
        # Fractions are cut off, as by TorchServe; handlers are not careful about 2.0.
        return lambda values: [int(one) if isinstance(one, float) else one for one in values]
    return lambda values: values


def _bytes(value: object, *, is_quoted: bool) -> bytes:
    """Return an element of BYTES: a text as it is, anything else, or with quotes a text as well, as JSON."""
    if isinstance(value, str) and not is_quoted:
        return value.encode()
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _set_parameters(to: Mapping[str, InferParameter], parameters: Parameters) -> None:
    """Set parameters of an answer; those of other types than messages have are left out."""
    for name, value in parameters.items():
        match value:
            case bool():
                to[name].bool_param = value
            case int() if -(2**63) <= value < 2**63:
                to[name].int64_param = value
            case float():
                to[name].double_param = value
            case str():
                to[name].string_param = value
