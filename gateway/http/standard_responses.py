"""What every HTTP response has, whatever answers: standard headers, errors as JSON, CORS. Pure.

Header names, their order and the form of the JSON are TorchServe's: clients compare whole responses.
"""

from collections.abc import Iterable
from http import HTTPStatus

import msgspec

from torchrelay.shared import errors, ids, settings
from torchrelay.shared.api_bodies import ErrorBody

JSON = "application/json"

#: On every response but the 413 of a body that is too large.
STANDARD_HEADERS = (
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
)
_KEEP_ALIVE = (b"connection", b"keep-alive")
_CLOSE = (b"connection", b"close")
#: Header names that a handler's own can't replace, nor add to.
SERVER_OWNED_HEADERS = frozenset(name.decode() for name, _ in STANDARD_HEADERS) | {
    "x-request-id",
    "content-length",
    "transfer-encoding",
    "connection",
}


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write headers as they go out, each with its line break."""
    return b"".join(b"%s: %s\r\n" % header for header in headers)


_KEPT_ALIVE_LINES = lines((*STANDARD_HEADERS, _KEEP_ALIVE)) + b"x-request-id: "


def standard_headers(request_id: str, *, keep_alive: bool) -> tuple[tuple[bytes, bytes], ...]:
    """Return what every response has, but the 413 of a body that is too large."""
    connection = _KEEP_ALIVE if keep_alive else _CLOSE
    return (*STANDARD_HEADERS, (b"x-request-id", request_id.encode()), connection)


def kept_alive_lines(request_id: str) -> bytes:
    """Return `standard_headers` of a connection that is kept alive, as header lines."""
    return b"%b%b\r\n" % (_KEPT_ALIVE_LINES, request_id.encode())


def cors_headers(config: settings.GatewaySettings) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that let pages of other sites use us, as they were configured."""
    said = {
        b"access-control-allow-origin": config.cors_allowed_origin,
        b"access-control-allow-methods": config.cors_allowed_methods,
        b"access-control-allow-headers": config.cors_allowed_headers,
    }
    return tuple((name, value.encode("latin-1")) for name, value in said.items() if value)


def pretty(value: object) -> bytes:
    """Write JSON as TorchServe does: two spaces, nothing escaped that needn't be, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def error_body(error: errors.RelayError, status: int, *, has_protocol: bool = False) -> bytes:
    """Write an error's body. Only a 5xx says why, since clients compare the others whole.

    With `has_protocol` it has the field that clients of the open inference protocol look for.
    """
    details = error.details if status >= 500 else ""
    said = f"{error.message} ({details})" if details else error.message
    body = ErrorBody(code=status, type=error.type, message=error.message, details=details)
    return pretty(msgspec.structs.replace(body, error=said) if has_protocol else body)


def json_headers(body: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of a body of JSON."""
    return (b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))


def whole_error(error: errors.RelayError, more: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Write the whole response, head and all, for what never reaches the application."""
    body = error_body(error, error.status)
    headers = (
        *json_headers(body),
        *standard_headers(ids.request_id(), keep_alive=False),
        *more,
    )
    if error.retryable and error.status == 503:
        headers = (*headers, (b"retry-after", b"%d" % error.retry_after_s))
    line = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode()
    return line + lines(headers) + b"\r\n" + body
