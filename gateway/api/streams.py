"""Answers that come in parts, passed on to the client as they come.

Once the first part is sent, a failure can only be shown by closing the connection in mid-body, which is
what TorchServe does too.
"""

import logging

from falcon.asgi import Response

from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.http.exchange import CutShort
from torchrelay.gateway.link import Link
from torchrelay.gateway.session import Answer
from torchrelay.gateway.waiter import Waiter
from torchrelay.shared import errors
from torchrelay.shared.wire import codec

logger = logging.getLogger(__name__)


def begin(req: GatewayRequest, resp: Response, link: Link, job: Waiter[Answer], first: bytes) -> None:
    """Stream the answer, whose first part has arrived; status and headers are set already."""
    parts = StreamedResponse(link, job, first, req.scope["request_id"])
    resp.data = None
    resp.stream = parts
    # TorchServe sends this header, which is meant for its own use.
    resp.set_header("ts_stream_next", "true")
    if req.method == "HEAD":
        link.forget(job)


class StreamedResponse:
    """The parts of one answer, as falcon streams them: one by one, and closed at the end."""

    def __init__(self, link: Link, job: Waiter[Answer], first: bytes, request_id: str) -> None:
        self._link = link
        self._job = job
        self._first: bytes | None = first
        self._is_over = False
        self._request_id = request_id

    def __aiter__(self) -> "StreamedResponse":
        return self

    async def __anext__(self) -> bytes:
        """Wait for the next part. Raises CutShort where it can't come any more."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._is_over:
            raise StopAsyncIteration
        try:
            answer = await self._job
            response, body = codec.unpack_response(answer.meta, answer.frames)
            if response.error is not None:
                raise errors.rebuild(*response.error)
        except (errors.RelayError, codec.WireError) as error:
            facts = {"request": self._request_id, "reason": str(error)}
            logger.warning("gateway.cut_short", extra=facts)
            raise CutShort from error
        self._is_over = answer.is_final
        return bytes(body)

    async def close(self) -> None:
        """Cancel the job, unless all of its parts have arrived."""
        self._link.forget(self._job)
