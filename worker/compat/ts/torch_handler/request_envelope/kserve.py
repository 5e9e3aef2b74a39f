"""The envelope of KServe's first protocol; one request at a time, so the model's batch size has to be 1."""

import json
from typing import Any  # what clients send and handlers return

from ts.torch_handler.request_envelope.base import BaseEnvelope


class KServeEnvelope(BaseEnvelope):
    """Rows are the request's `instances`; the answers become its `predictions` or `explanations`."""

    def parse_input(self, data: Any) -> Any:
        """Return the first request's instances."""
        body = data[0].get("data") or data[0].get("body")
        if isinstance(body, bytes | bytearray):  # sent without a content type
            body = json.loads(body.decode())
        return body.get("instances")

    def format_output(self, data: Any) -> Any:
        """Return one answer with all that the handler returned."""
        return [{"explanations" if self._is_explain() else "predictions": data}]

    def _is_explain(self) -> bool:
        return self.context is not None and self.context.get_request_header(0, "explain") == "True"
