"""A request that is sent to two servers, and its line in a file: JSON, one request in a line. Pure."""

import base64
import binascii
from typing import Literal

import msgspec

from torchrelay.cli.migrate import known_routes

Api = Literal["inference", "management", "metrics"]
#: Of one connection, and of who is asked: the sender writes its own.
HOP_HEADERS = frozenset(
    ("connection", "content-length", "expect", "host", "keep-alive", "proxy-authenticate",
     "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)  # fmt: skip


class ReplayedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request; `path` has its query, and is sent as it is written."""

    api: Api
    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    #: Where it was read, for messages.
    source: str = ""

    @property
    def label(self) -> str:
        """By what requests that belong together are counted: the method, and the path without its query."""
        return f"{self.method} {self.path.partition('?')[0]}"

    @property
    def changes_something(self) -> bool:
        """Whether it does more than to ask or to predict."""
        return known_routes.target_of(f"http://host{self.path}").changes_something(self.method)


class _RequestLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A line of such a file; a body is text, or bytes in base64."""

    method: str
    path: str
    api: Api | None = None
    headers: dict[str, str] = {}
    body: str = ""
    body_b64: str = ""


def parse_line(line: bytes, source: str) -> ReplayedRequest:
    """Read a line. Raises ValueError for what is none."""
    try:
        said = msgspec.json.decode(line, type=_RequestLine)
        body = base64.b64decode(said.body_b64, validate=True) if said.body_b64 else said.body.encode()
    except (msgspec.MsgspecError, binascii.Error) as error:
        raise ValueError(str(error)) from error
    if not said.path.startswith("/"):
        raise ValueError(f"path {said.path!r} doesn't begin with a slash")
    if not (said.method + said.path).isprintable():
        raise ValueError(f"{said.method!r} {said.path!r} has a character that can't be shown: escape it by %")
    return ReplayedRequest(
        api=said.api or api_of(said.path),
        method=said.method.upper(),
        path=said.path,
        headers=tuple(said.headers.items()),
        body=body,
        source=source,
    )


def write_line(request: ReplayedRequest) -> bytes:
    """Write a request so that `parse_line` reads it again; keys of servers are left out."""
    headers = {name: value for name, value in request.headers if name.lower() != "authorization"}
    try:
        text, encoded = request.body.decode(), ""
    except UnicodeDecodeError:
        text, encoded = "", base64.b64encode(request.body).decode()
    line = _RequestLine(
        method=request.method,
        path=request.path,
        api=request.api,
        headers=headers,
        body=text,
        body_b64=encoded,
    )
    return msgspec.json.encode(line) + b"\n"


def api_of(path: str, port: str = "") -> Api:
    """Return the API that a path belongs to; where no route tells, by its port, else inference."""
    route = known_routes.find(path.partition("?")[0])
    name = route.api if route else known_routes.PORTS.get(port, "inference")
    return name if name in ("management", "metrics") else "inference"  # type: ignore[return-value]  # one of the three
