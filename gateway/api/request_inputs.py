"""Request bodies and queries into the named inputs of a handler. Pure.

Shapes are TorchServe's: form fields and multipart parts by name, anything else as `body`; of a name
that comes twice the last survives. A body comes from outside: what is broken is refused in words.
"""

import re
from binascii import a2b_qp
from functools import lru_cache

from torchrelay.gateway.api.gateway_request import COPIED_LIMIT_BYTES, Body
from torchrelay.gateway.calls.parameters import query_pairs
from torchrelay.gateway.calls.prediction_jobs import INPUTS_LIMIT, Input, require_bounds, too_many
from torchrelay.shared import errors

#: What stands before the value in a part of a multipart body, as much as in a request's head; and in all of
#: its parts together, each of which needs a hundred bytes or two.
PART_HEAD_LIMIT_BYTES = 8 * 1024
PART_HEADS_LIMIT_BYTES = 512 * 1024

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
#: Content types that were understood; of 8 KiB at most.
TYPES_REMEMBERED = 64

#: All hex digits become one, so that escapes can be counted.
_HEX_DIGITS = bytes.maketrans(b"123456789ABCDEFabcdef", b"0" * 21)
#: What a form's bytes are in quoted-printable.
_PRINTABLE = bytes.maketrans(b"+%", b" =")
#: A parameter of a header: its name, and what it is, in quotes or without. Possessive, since what stands
#: here is anybody's: each character is looked at once.
_PARAMETER = re.compile(r';\s*+([^=;\s"]*+)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^;]*+))', re.DOTALL)


@lru_cache(TYPES_REMEMBERED)
def understood(content_type: str) -> tuple[str, str]:
    """Return the media type as it was said, and what form it is; "" for none: that is one input as it is.

    PERF: remembered, since clients say the same few again and again: 1 % of a request.
    """
    media_type = content_type.split(";", 1)[0].strip()
    return media_type, media_type.lower() if media_type.lower() in _FORMS else ""


def read_inputs(body: Body, content_type: str) -> list[Input]:
    """Split a body into inputs. Raises BadRequest for a malformed form."""
    media_type, form = understood(content_type)
    if form == "application/x-www-form-urlencoded":
        return _form(body)
    if form == "multipart/form-data":
        boundary = _parameters(content_type).get("boundary")
        if boundary:
            return _multipart(body, boundary.encode("latin-1", "replace"))
    return [("body", media_type, body)]


def query_inputs(query: str) -> list[Input]:
    """Split a query string into inputs, for the routes whose query reaches the handler."""
    return _last_of_each([(name, "", value.encode()) for name, value in query_pairs(query)])


def merged(*groups: list[Input]) -> list[Input]:
    """Join inputs; of a name that comes twice the last survives."""
    return _last_of_each([one for group in groups for one in group])


def _form(body: Body) -> list[Input]:
    fields = body.split(b"&", INPUTS_LIMIT + 1)
    if len(fields) > INPUTS_LIMIT + 1:
        raise too_many()
    if b"=" not in fields[-1]:
        fields.pop()
    # curl says "form" of whatever it sends: a body without a single field is meant as it is.
    if body and not fields:
        return [("body", "", body)]
    inputs: list[Input] = []
    for field in fields:
        if not _is_escaped(field):
            raise errors.BadRequest(
                "The form body has a percent sign that is no escape. If it is no form, say what it is by its "
                "Content-Type, such as application/octet-stream."
            )
        name, _, value = field.partition(b"=")
        inputs.append((_unescaped(name).decode("utf-8", "replace"), "", _unescaped(value)))
    return _last_of_each(inputs)


def _is_escaped(text: Body) -> bool:
    """Tell whether every percent sign begins an escape.

    PERF: 6.5 MB of escapes take 20 ms, a fifth of what an expression takes.
    """
    if b"%" not in text:
        return True
    digits = text.translate(_HEX_DIGITS)
    return digits.count(b"%00") == digits.count(b"%")


def _unescaped(text: Body) -> bytes:
    """Decode a text in which every percent sign begins an escape.

    PERF: quoted-printable has the same escapes behind another sign, and a decoder in C: 6.5 MB of them take
    70 ms, and more than a second with urllib.
    """
    if b"%" not in text:
        return bytes(text.translate(_PRINTABLE))
    return a2b_qp(text.replace(b"=", b"=3D").translate(_PRINTABLE))


def _parameters(header: str) -> dict[str, str]:
    """Return the parameters of a header by their names; of one that comes twice the last survives."""
    found = {}
    for name, quoted, plain in _PARAMETER.findall(header):
        found[name.lower()] = quoted.replace("\\\\", "\\").replace('\\"', '"') if quoted else plain.strip()
    return found


def _multipart(body: Body, boundary: bytes) -> list[Input]:
    """Split RFC 7578 form data. A body without the boundary in it has no parts, as TorchServe sees it."""
    delimiter = b"\r\n--" + boundary
    inputs: list[Input] = []
    # The first one needs no line break where nothing is before it.
    at = -2 if body.startswith(delimiter[2:]) else body.find(delimiter)
    if at == -1:
        return []
    head_bytes = 0
    for _ in range(INPUTS_LIMIT + 2):
        start = at + len(delimiter)
        if body.startswith(b"--", start):
            return _last_of_each(inputs)
        at = body.find(delimiter, start)
        if at == -1:
            break
        if at > start:  # clients that have nothing to send put nothing between two delimiters
            head, value = _split(body, start, at)
            head_bytes += len(head)
            if head_bytes > PART_HEADS_LIMIT_BYTES:
                break
            inputs.append(_part(head, value))
    raise errors.BadRequest(
        "The multipart body ends before its last boundary, or has too many parts or headers."
    )


def _split(body: Body, start: int, end: int) -> tuple[Body, memoryview]:
    """Split the bytes between two delimiters into the headers of a part and its value."""
    blank = body.find(b"\r\n\r\n", start, min(end, start + PART_HEAD_LIMIT_BYTES))
    if blank == -1:
        raise errors.BadRequest(
            f"A part of the multipart body has no headers, or above {PART_HEAD_LIMIT_BYTES} bytes of them."
        )
    return body[start:blank], memoryview(body)[blank + 4 : end]


def _part(head: Body, value: memoryview) -> Input:
    """Read one part."""
    padding, *lines = head.decode("utf-8", "replace").split("\r\n")
    if padding.strip():
        raise errors.BadRequest("A part of the multipart body has no headers.")
    headers = {}
    for line in lines:
        key, _, text = line.partition(":")
        headers[key.strip().lower()] = text.strip()
    parameters = _parameters(headers.get("content-disposition", ""))
    name = parameters.get("name")
    if not name:
        raise errors.BadRequest("A part of the multipart body has no name.")
    is_file = "filename" in parameters or "filename*" in parameters
    # Only files have a type of their own, and always one: plain fields stay bytes for the handler.
    stated = headers.get("content-type", "").split(";", 1)[0].strip() or "application/octet-stream"
    return name, stated if is_file else "", value if len(value) > COPIED_LIMIT_BYTES else bytes(value)


def _last_of_each(inputs: list[Input]) -> list[Input]:
    require_bounds(inputs)
    return list({one[0]: one for one in inputs}.values())
