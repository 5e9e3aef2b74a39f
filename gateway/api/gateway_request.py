"""The request as falcon hands it to the resources: it reads its body, within limits."""

from typing import Any

import falcon
import falcon.asgi

from torchrelay.gateway.body_reading import BodyReading
from torchrelay.gateway.gathered_body import GatheredBody
from torchrelay.gateway.http.exchange import ClientLeft
from torchrelay.gateway.link import Link
from torchrelay.shared import errors
from torchrelay.shared.processes.shared_memory import Piece

Body = bytes | bytearray
#: A body, or a part of one, up to this is copied; above it, it is used where it was received.
COPIED_LIMIT_BYTES = 64 * 1024


class GatewayRequest(falcon.asgi.Request):
    """A request whose body has a limit."""

    #: Whether its body came in more than one piece, and was counted.
    was_read_in_pieces = False
    #: When its client gives up, if it has said so; in the time of `clock.monotonic`.
    answer_by: float | None = None

    def __init__(
        self,
        scope: dict[str, Any],  # falcon's signature
        receive: Any,
        first_event: Any = None,
        options: falcon.RequestOptions | None = None,
    ) -> None:
        """Take a request from falcon.

        PERF: from our own protocol, without a query and with no header twice, as most are, not by way of
        the base: that takes 10,600 instructions, mostly for what nobody here asks for.
        """
        headers = scope.get("headers_by_name")
        if headers is None or scope["query_string"] or len(headers) < len(scope["headers"]):
            super().__init__(scope, receive, first_event, options)
            return
        self.scope = scope
        self.is_websocket = False
        self.options = options or falcon.RequestOptions()
        self.method = scope["method"]
        self.path = scope["path"] or "/"
        self.query_string = ""
        self.uri_template = None
        self._params = {}
        self._asgi_headers = headers
        self._receive = receive
        self._first_event = first_event
        content_type = headers.get(b"content-type")
        self.content_type = None if content_type is None else content_type.decode("latin-1")

    def text_of(self, header: bytes) -> str:
        """Return a header by its name in small letters; "" where there is none."""
        value = self._asgi_headers.get(header)
        return "" if value is None else value.decode("latin-1")

    def has(self, header: bytes) -> bool:
        """Tell whether a header is there, by its name in small letters."""
        return header in self._asgi_headers

    async def read_body(self, limit: int, link: Link) -> Body:
        """Read the body, at most `limit` bytes of it.

        What comes after a first piece is counted at the link. Raises RequestTooLarge, at once where a
        Content-Length says so, and ServiceUnavailable where there is no room for it.
        """
        body = await self._read(limit, link, is_lent=False)
        assert not isinstance(body, Piece)
        return body

    async def read_input(self, limit: int, link: Link) -> Body | Piece:
        """Do the same for a body that goes to a worker as it is: where one can be lent, it is gathered so."""
        return await self._read(limit, link, is_lent=True)

    async def _read(self, limit: int, link: Link, *, is_lent: bool) -> Body | Piece:
        event, self._first_event = self._first_event or {}, None
        body: Body = event.get("body", b"")
        if not event.get("more_body"):
            if len(body) > limit:
                raise _too_large(limit)
            return body
        length = self.content_length
        if length is not None and length > limit:
            raise _too_large(limit)
        self.was_read_in_pieces = True
        gathered = GatheredBody(link.reserve(length) if is_lent and length is not None else None)
        with link.reading(limit, length, self.answer_by) as counted:
            await self._gather(gathered, body, limit, counted)
        return gathered.whole()

    async def _gather(self, body: GatheredBody, bit: Body, limit: int, counted: BodyReading) -> None:
        more = True
        while True:
            if body.size + len(bit) > limit:
                raise _too_large(limit)
            if not counted.take(len(bit)):
                await counted.wait_and_take(len(bit))
            body.add(bit)
            if not more:
                return
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise ClientLeft
            bit = event.get("body", b"")
            more = event.get("more_body", False)


def _too_large(limit: int) -> errors.RequestTooLarge:
    return errors.RequestTooLarge(f"The body is larger than max_request_size allows ({limit} bytes).")
