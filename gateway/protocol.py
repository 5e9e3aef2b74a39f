"""What we need of HTTP beyond ASGI, in the one place that knows uvicorn from inside.

Header names as the client spelled them (ASGI lower-cases them, handlers look them up by case), limits
on what comes before the body, errors of the protocol in the JSON that all our errors have, and the
status line that a handler asked for (ASGI has no reason phrase, uvicorn no status above 599).
"""

import re
import sys
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway import presenting
from shared import errors, ids

#: TorchServe's limits, and its 400 above them.
TARGET_LIMIT_BYTES = 4096
HEADERS_LIMIT_BYTES = 8192

#: An ASGI scope; `Any` because ASGI leaves the types of its values to the server.
Scope = dict[str, Any]

_REQUEST_LINE = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]\r\n")


class GatewayProtocol(HttpToolsProtocol):
    """One connection. Adds `raw_headers` and `keep_alive` to the scope of a request."""

    #: The bytes being parsed, for `send_400_response`.
    _received = b""

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._received = data
        super().data_received(data)
        self._received = b""

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        super().on_url(url)
        if len(self.url) > TARGET_LIMIT_BYTES:
            raise ValueError("request target too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADERS_LIMIT_BYTES:
            raise ValueError("headers too large")
        self._raw_headers.append((name, value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request to the application, which runs at the loop's next turn."""
        super().on_headers_complete()
        scope = cast(Scope, self.scope)
        scope["raw_headers"] = self._raw_headers
        scope["keep_alive"] = self.cycle.keep_alive

    def shutdown(self) -> None:
        """Let the answer in progress be the connection's last."""
        if self.cycle is not None:
            cast(Scope, self.cycle.scope)["keep_alive"] = False
        super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse what can't be parsed, or has a method that the parser never heard of."""
        is_unknown_method = isinstance(sys.exc_info()[1], httptools.HttpParserInvalidMethodError)
        error: errors.RelayError = errors.BadRequest("Invalid HTTP message.")
        if is_unknown_method and _REQUEST_LINE.match(self._received):
            error = errors.MethodNotAllowed()
        body = presenting.error_body(error, error.status)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *presenting.standard_headers(ids.request_id(), keep_alive=False),
        ]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(STATUS_LINE[error.status] + b"".join(lines) + b"\r\n" + body)
        self.transport.close()


def set_status_line(send: object, status: int, reason: str) -> None:
    """Make the response that `send` is about to start begin with this status and reason."""
    cycle = getattr(send, "__self__", None)
    if isinstance(cycle, RequestResponseCycle):
        line = f"HTTP/1.1 {status} {reason}".encode("latin-1")
        cycle.transport = cast(Any, _OtherStatusLine(cycle, line))  # all of a transport that is used next


class _OtherStatusLine:
    """Stands in for a transport during one write, the response's head."""

    def __init__(self, cycle: RequestResponseCycle, line: bytes) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._line = line

    def write(self, head: bytes) -> None:
        self._cycle.transport = self._transport
        self._transport.write(self._line + head[head.index(b"\r\n") :])
