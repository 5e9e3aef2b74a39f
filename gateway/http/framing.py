"""Where a request ends: what is refused because others might see it elsewhere. Pure."""

import re
from collections.abc import Callable
from typing import Any

from torchrelay.gateway.http.exchange import Scope

#: What says where a request ends, and whether another may follow.
_FRAMING = frozenset((b"connection", b"content-length", b"transfer-encoding"))
VERSIONS = ("1.1", "1.0")
REQUEST_LINE = re.compile(rb"[A-Za-z]+ \S+ HTTP/1\.[01]\r\n")


class Trailers(list[Any]):  # whatever a list of headers holds
    """Takes the headers' place once the head is over: headers behind a body are dropped."""

    def append(self, header: object) -> None:
        """Drop a header behind a body."""

    def __iadd__(self, header: object) -> "Trailers":  # type: ignore[misc]  # a list takes less
        return self


TRAILERS = Trailers()


class Discarding:
    """Takes the parser's place once all that comes is dropped; calls `close` above the limit."""

    def __init__(self, close: Callable[[], None], limit_bytes: float) -> None:
        self._close = close
        self._limit_bytes = limit_bytes
        self.taken_bytes = 0

    def feed_data(self, data: bytes | memoryview) -> None:
        """Count what comes, and drop it."""
        self.taken_bytes += len(data)
        if self.taken_bytes > self._limit_bytes:
            self._close()


def check(headers: list[tuple[bytes, bytes]], version: str) -> None:
    """Refuse what others may take for another request than the parser does. Raises ValueError."""
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise ValueError("a coding beside chunks")
    if [name for name, _ in headers].count(b"host") > 1:
        raise ValueError("more than one host")
    if version not in VERSIONS:
        raise ValueError("no version of HTTP that is spoken here")


def without_offer(scope: Scope, target: bytes) -> bytes:
    """Write a head that frames the same request, for the parser alone."""
    method = "POST" if scope["method"] == "CONNECT" else scope["method"]
    framing = b"".join(b"%s: %s\r\n" % header for header in scope["headers"] if header[0] in _FRAMING)
    return b"%s %s HTTP/%s\r\n%s\r\n" % (method.encode(), target, scope["http_version"].encode(), framing)
