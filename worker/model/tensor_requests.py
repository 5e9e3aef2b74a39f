"""Requests of the open inference protocol: what handlers get of them, and which answers they want; no I/O.

A handler gets what TorchServe's get, the JSON object of the request as `body`. The data of a tensor that came
as binary data are an array of numpy's in its shape, and of BYTES one of bytes; without numpy they are a list.
"""

from collections.abc import Sequence

import msgspec
from ts.context import Context

from torchrelay.shared.open_inference import infer_bodies, job_inputs
from torchrelay.shared.open_inference.infer_bodies import InferRequest, RequestFacts, Wanted
from torchrelay.shared.open_inference.tensor_arrays import array_of
from torchrelay.shared.open_inference.tensors import Tensor
from torchrelay.shared.wire import codec
from torchrelay.worker.model.input_values import decoded, own


class TensorRequest(msgspec.Struct, frozen=True):
    """A request, once it could be read."""

    #: What the handler gets.
    body: object
    content_type: str
    wanted: Wanted = Wanted()
    #: What an answer says, unless the handler has said it.
    id: str = ""
    model_name: str = ""
    model_version: str = ""

    def facts(self) -> dict[str, str]:
        """Return what an answer says, unless the handler has said it."""
        return {"id": self.id, "model_name": self.model_name, "model_version": self.model_version}


def opened(
    request: codec.Request, values: Sequence[codec.Payload], context: Context, *, decode_input: bool
) -> TensorRequest:
    """Read a job's request. Raises TensorError for one with binary data that can't be."""
    marked = request.inputs[0].content_type
    header_length = job_inputs.header_length_in(marked)
    content_type = marked.partition(";")[0]
    if not decode_input:
        whole = values[0] if len(values) == 1 else b"".join(values)
        return TensorRequest(own(whole), content_type)
    if header_length is None:
        body = decoded(content_type, values[0])
        said = _facts_of(body)
    else:
        said = read = infer_bodies.decode_request(values, header_length)
        body, content_type = _body(read), infer_bodies.JSON_TYPE
    model = (context.manifest or {}).get("model") or {}
    return TensorRequest(
        body,
        content_type,
        said.wanted,
        id=said.id or request.request_id,
        model_name=context.model_name,
        model_version=str(model.get("modelVersion") or ""),
    )


def _facts_of(body: object) -> RequestFacts:
    """Return what a request in JSON says, if it says it as the protocol has it."""
    try:
        return msgspec.convert(body, RequestFacts)
    except (msgspec.ValidationError, UnicodeEncodeError):  # the second for halves of surrogate pairs
        return RequestFacts()  # the handler's to refuse, or to understand


def _body(said: InferRequest) -> dict[str, object]:
    """Write a request as the JSON object that it is."""
    texts = {name: getattr(said, name) for name in ("id", "model_name") if getattr(said, name)}
    body: dict[str, object] = {**texts, "inputs": [_input(one) for one in said.inputs]}
    if said.parameters:
        body["parameters"] = said.parameters
    if said.outputs:
        body["outputs"] = msgspec.to_builtins(said.outputs)
    return body


def _input(tensor: Tensor) -> dict[str, object]:
    facts: dict[str, object] = {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "datatype": tensor.datatype,
        "data": _data(tensor),
    }
    return {**facts, "parameters": tensor.parameters} if tensor.parameters else facts


def _data(tensor: Tensor) -> object:
    if not tensor.is_packed:
        return tensor.data
    try:
        return array_of(tensor)
    except ModuleNotFoundError:
        return tensor.values()
