"""The envelope of TensorFlow Serving's row format: `instances` come in, `predictions` go out."""

import json
from base64 import b64decode
from collections.abc import Sequence
from itertools import accumulate
from typing import Any  # what clients send and handlers return

from ts.torch_handler.request_envelope.base import BaseEnvelope


class JSONEnvelope(BaseEnvelope):
    """Joins the instances of all requests to one batch, and hands each request its share of the answers."""

    #: Instances of each request of the batch.
    _lengths: Sequence[int] = ()

    def parse_input(self, data: Any) -> Any:
        """Return the instances of all requests."""
        batches = [_instances(row) for row in data]
        self._lengths = [len(batch) for batch in batches]
        return [row for batch in batches for row in batch]

    def format_output(self, data: Any) -> Any:
        """Return one JSON text for each request."""
        ends = accumulate(self._lengths)
        return [
            json.dumps({"predictions": data[end - length : end]})
            for end, length in zip(ends, self._lengths, strict=True)
        ]


def _instances(row: dict[str, Any]) -> list[Any]:
    """Return a request's instances, bytes where it says `{"b64": ...}`; the first tells what all are."""
    instances: list[Any] = (row.get("data") or row.get("body") or row)["instances"]
    return [_decode_row(instance) for instance in instances] if isinstance(instances[0], dict) else instances


def _decode_row(row: Any) -> Any:
    decoded = _decode_value(row)
    return {key: _decode_value(value) for key, value in row.items()} if decoded is row else decoded


def _decode_value(value: Any) -> Any:
    return b64decode(value["b64"]) if isinstance(value, dict) and list(value) == ["b64"] else value
