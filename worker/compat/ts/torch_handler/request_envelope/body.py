"""The envelope that hands each request's body over as it is."""

from typing import Any  # what clients send and handlers return

from ts.torch_handler.request_envelope.base import BaseEnvelope


class BodyEnvelope(BaseEnvelope):
    """Rows are the requests' `data` or `body`; answers are left alone."""

    def parse_input(self, data: Any) -> Any:
        """Return each request's body."""
        return [row.get("data") or row.get("body") for row in data]

    def format_output(self, data: Any) -> Any:
        """Return the answers."""
        return data
