"""Request bodies into the named inputs of a handler; pure but for `GatewayRequest`, which reads them.

Shapes are TorchServe's: form fields and multipart parts by name, anything else as `body`; of a name
that comes twice the last survives. A body comes from outside: what is broken is refused in words.
"""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import unquote_to_bytes

import falcon
import falcon.asgi

from torchrelay.gateway.exchange import ClientLeft
from torchrelay.gateway.parameters import query_pairs
from torchrelay.shared import errors

#: (name, content type or "", value), as `wire.pack_request` takes them.
Input = tuple[str, str, bytes]

#: Far more than a model has inputs; each one costs a little everywhere on its way.
INPUTS_LIMIT = 1000

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class GatewayRequest(falcon.asgi.Request):
    """A request that bounds its body."""

    def __init__(
        self,
        scope: dict[str, Any],  # falcon's signature
        receive: Any,
        first_event: Any = None,
        options: falcon.RequestOptions | None = None,
    ) -> None:
        """Take a request in.

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

    async def read_body(self, limit: int, room_for: Callable[[int], AbstractContextManager[None]]) -> bytes:
        """Read the body, at most `limit` bytes of it.

        `room_for` is entered with its size, or the limit, while more than a first piece is on its way.
        Raises RequestTooLarge, at once where a Content-Length says so.
        """
        event = self._first_event or {}
        body: bytes = event.get("body", b"")
        if not event.get("more_body"):
            if len(body) > limit:
                raise _too_large(limit)
            return body
        length = self.content_length
        if length is not None and length > limit:
            raise _too_large(limit)
        with room_for(limit if length is None else length):
            return await self._read_on(body, limit)

    async def _read_on(self, first: bytes, limit: int) -> bytes:
        pieces, size, more = [first], len(first), True
        while more and size <= limit:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise ClientLeft
            pieces.append(event.get("body", b""))
            size += len(pieces[-1])
            more = event.get("more_body", False)
        if size > limit:
            raise _too_large(limit)
        return b"".join(pieces)


def _too_large(limit: int) -> errors.RequestTooLarge:
    return errors.RequestTooLarge(f"The body is larger than max_request_size allows ({limit} bytes).")


def read_inputs(body: bytes, content_type: str) -> list[Input]:
    """Take a body apart. Raises BadRequest for a form that is broken."""
    if not content_type:
        return [("body", "", body)]
    media_type = content_type.split(";", 1)[0].strip()
    match media_type.lower():
        case "application/x-www-form-urlencoded":
            return _form(body)
        case "multipart/form-data":
            boundary = falcon.parse_header(content_type)[1].get("boundary")
            if boundary:
                return _multipart(body, boundary.encode("latin-1", "replace"))
    return [("body", media_type, body)]


def query_inputs(query: str) -> list[Input]:
    """Take a query string apart, for the routes whose query reaches the handler."""
    return _last_of_each([(name, "", value.encode()) for name, value in query_pairs(query)])


def merged(*groups: list[Input]) -> list[Input]:
    """Join inputs; of a name that comes twice the last survives."""
    return _last_of_each([one for group in groups for one in group])


def _form(body: bytes) -> list[Input]:
    fields = body.split(b"&")
    if b"=" not in fields[-1]:
        fields.pop()
    # curl says "form" of whatever it sends: a body without a single field is meant as it is.
    if body and not fields:
        return [("body", "", body)]
    inputs = []
    for field in fields:
        if _BAD_ESCAPE.search(field):
            raise errors.BadRequest(
                "The form body has a percent sign that is no escape. If it is no form, say what it is by its "
                "Content-Type, such as application/octet-stream."
            )
        name, _, value = field.partition(b"=")
        inputs.append((_unescaped(name).decode("utf-8", "replace"), "", _unescaped(value)))
    return _last_of_each(inputs)


def _unescaped(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _multipart(body: bytes, boundary: bytes) -> list[Input]:
    """Split RFC 7578 form data. A body without the boundary in it has no parts, as TorchServe sees it."""
    delimiter = b"\r\n--" + boundary
    pieces = (b"\r\n" + body).split(delimiter, INPUTS_LIMIT + 2)
    inputs: list[Input] = []
    for piece in pieces[1:]:
        if piece.startswith(b"--"):
            return _last_of_each(inputs)
        if piece:  # clients that have nothing to send put nothing between two delimiters
            inputs.append(_part(piece))
    if len(pieces) > 1:
        raise errors.BadRequest("The multipart body ends before its last boundary, or has too many parts.")
    return []


def _part(piece: bytes) -> Input:
    """Read one part: what stands between two delimiters."""
    head, blank, value = piece.partition(b"\r\n\r\n")
    padding, *lines = head.decode("utf-8", "replace").split("\r\n")
    if padding.strip() or not blank:
        raise errors.BadRequest("A part of the multipart body has no headers.")
    headers = {}
    for line in lines:
        key, _, text = line.partition(":")
        headers[key.strip().lower()] = text.strip()
    parameters = falcon.parse_header(headers.get("content-disposition", ""))[1]
    name = parameters.get("name")
    if not name:
        raise errors.BadRequest("A part of the multipart body has no name.")
    is_file = "filename" in parameters or "filename*" in parameters
    # Only files have a type of their own, and always one: plain fields stay bytes for the handler.
    stated = headers.get("content-type", "").split(";", 1)[0].strip() or "application/octet-stream"
    return name, stated if is_file else "", value


def _last_of_each(inputs: list[Input]) -> list[Input]:
    if len(inputs) > INPUTS_LIMIT:
        raise errors.BadRequest(f"The request has more than {INPUTS_LIMIT} inputs.")
    return list({one[0]: one for one in inputs}.values())
