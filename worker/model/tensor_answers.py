"""Answers of the open inference protocol: what a handler says of its outputs becomes a body; no I/O.

An answer is a dict with `outputs`, a list of dicts with `name` and `data`. Data may be an array of numpy's or
a tensor of torch's, which say their datatype and shape themselves; lists say them in `datatype` and `shape`.
Each output goes out as binary data or as JSON, as its request wants it. `id`, `model_name` and
`model_version` are added where the handler doesn't say them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from torchrelay.shared.open_inference import infer_bodies, tensor_arrays
from torchrelay.shared.open_inference.infer_bodies import EncodedBody, InferResponse, Wanted
from torchrelay.shared.open_inference.tensors import Tensor, TensorError
from torchrelay.worker.model import loaded_torch
from torchrelay.worker.model.tensor_requests import TensorRequest

Answer = Mapping[str, Any]  # Any: what a handler has put there


def encoded(value: object, request: TensorRequest | None) -> EncodedBody | None:
    """Write an answer with arrays, or one that is wanted as binary data; None for any other, which is JSON.

    Raises TensorError for one that is none of the protocol.
    """
    if not _is_answer(value):
        return None
    wanted = request.wanted if request is not None else Wanted()
    if not wanted.is_any_binary and not any(_is_array(one.get("data")) for one in value["outputs"]):
        return None
    known = TensorRequest(None, "").facts() if request is None else request.facts()
    response = InferResponse(
        [_tensor(one) for one in value["outputs"]],
        **{name: _text(value, name) or fact for name, fact in known.items()},
        parameters=_parameters(value),
    )
    return infer_bodies.encode_response(response, wanted)


def with_facts(value: object, request: TensorRequest) -> object:
    """Add to an answer that is JSON what it doesn't say of itself; anything else stays as it is."""
    if not _is_answer(value):
        return value
    return {**value, **{name: fact for name, fact in request.facts().items() if not value.get(name)}}


def as_json(value: Any) -> Any:  # Any: what `json` asks for
    """Write for `json` what a request's tensors consist of; a handler may answer with some of them."""
    if isinstance(value, bytes):
        return str(value, "utf-8")
    if _is_array(value) and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _is_answer(value: object) -> TypeGuard[Answer]:
    if not isinstance(value, dict):
        return False
    outputs = value.get("outputs")
    return isinstance(outputs, list) and all(isinstance(one, dict) for one in outputs)


def _is_array(data: object) -> bool:
    return hasattr(data, "__array__")  # numpy's arrays have it, and its scalars; torch's tensors, too


def _tensor(said: Answer) -> Tensor:
    name, data = _text(said, "name"), said.get("data")
    if not name:
        raise TensorError("an output has no name")
    datatype = _text(said, "datatype")
    if _is_array(data):
        tensor = _of_array(name, data, datatype)
        if "shape" in said and tuple(said["shape"]) != tuple(tensor.shape):
            raise TensorError(f"{tensor}: its shape is {tensor.shape}, and said to be {said['shape']}")
    else:
        if not isinstance(data, list):
            raise TensorError(
                f"the data of output {name!r} are a {type(data).__name__}, no array and no list"
            )
        shape = said.get("shape")
        if not isinstance(shape, Sequence) or not all(isinstance(one, int) for one in shape):
            raise TensorError(f"output {name!r} has a list for its data, and no shape")
        # Handlers answer with objects, too, such as labels and their probabilities: those are JSON in BYTES.
        texts = [json.dumps(one) if isinstance(one, dict) else one for one in data]
        tensor = Tensor(name, datatype, shape, texts)
    tensor.parameters = _parameters(said)
    return tensor


def _of_array(name: str, data: Any, datatype: str) -> Tensor:  # Any: an array or a tensor
    torch = loaded_torch.module()
    if torch is not None and isinstance(data, torch.Tensor):
        data = data.detach().cpu()
        if data.dtype == torch.bfloat16:  # which numpy hasn't
            packed = data.contiguous().view(torch.int16).numpy().tobytes()
            return Tensor(name, "BF16", tuple(data.shape), packed)
        data = data.numpy()
    return tensor_arrays.tensor_of(name, data, datatype)


def _text(said: Answer, name: str) -> str:
    value = said.get(name)
    if value is not None and not isinstance(value, str):
        raise TensorError(f"{name} is a {type(value).__name__}, no text")
    return value or ""


def _parameters(said: Answer) -> dict[str, object]:
    parameters = said.get("parameters")
    return dict(parameters) if isinstance(parameters, dict) else {}
