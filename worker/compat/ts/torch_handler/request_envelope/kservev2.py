"""The envelope of KServe's second protocol; one request at a time, so the model's batch size has to be 1."""

import json
from typing import Any  # what clients send and handlers return

import numpy as np

from ts.torch_handler.request_envelope.base import BaseEnvelope

#: numpy's name of a type -> the protocol's; what has a name of its own for each length goes by its kind.
_DATATYPES = {
    **{name: name.upper() for name in ("bool", "uint8", "uint16", "uint32", "uint64")},
    **{name: name.upper() for name in ("int8", "int16", "int32", "int64")},
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **dict.fromkeys(("byte", "object", "U"), "BYTES"),
}


class KServev2Envelope(BaseEnvelope):
    """Rows are the request's `inputs`; the handler's answers become `outputs` of the same names."""

    def parse_input(self, data: Any) -> Any:
        """Return the first request's inputs, their data in the shape that they say."""
        bodies = [row.get("data") or row.get("body") for row in data]
        if isinstance(bodies[0], bytes | bytearray):  # sent without a content type
            bodies = [json.loads(body.decode()) for body in bodies]
        body = bodies[0]
        for tensor in body["inputs"]:
            tensor["data"] = _shaped(tensor)
        facts = vars(self.context)
        facts["input_names"] = [tensor["name"] for tensor in body["inputs"]]
        request_id = body.get("id")
        if request_id and request_id.strip():
            facts["input_request_id"] = request_id
        return body["inputs"]

    def format_output(self, data: Any) -> Any:
        """Return one answer with an output for each of the handler's."""
        assert self.context is not None
        facts = vars(self.context)
        model = (self.context.manifest or {}).get("model") or {}
        names = facts.pop("input_names")
        return [
            {
                "id": facts.pop("input_request_id", None) or self.context.get_request_id(0),
                "model_name": model.get("modelName"),
                "model_version": model.get("modelVersion"),
                "outputs": [_output(answer, names[index]) for index, answer in enumerate(data)],
            }
        ]


def _shaped(tensor: dict[str, Any]) -> Any:
    if tensor["datatype"] == "BYTES":
        data = tensor["data"]
        return data.flat[0] if isinstance(data, np.ndarray) else data[0]
    return np.array(tensor["data"]).reshape(tuple(tensor["shape"])).tolist()


def _output(answer: Any, name: str) -> dict[str, Any]:
    """Describe an answer as the one-dimensional array of what it holds."""
    flat = np.array(answer).flatten()
    datatype = _DATATYPES.get(str(flat.dtype)) or _DATATYPES[flat.dtype.kind]
    return {"name": name, "datatype": datatype, "data": flat.tolist(), "shape": flat.shape}
