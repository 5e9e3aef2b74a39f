"""In what two answers differ: status, headers, and bodies by what they are. Pure.

JSON is compared by structure, with tolerances for numbers; metrics by their names; all else byte by byte.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

#: Of one pair of answers.
DIFFERENCES_LIMIT = 20
SHOWN_CHARS = 80
#: Every response has its own, or they say how it is sent.
VOLATILE_HEADERS = frozenset(
    ("connection", "content-length", "date", "keep-alive", "server", "transfer-encoding", "x-request-id")
)
#: Of workers, what differs between any two servers or moments; of a 5xx the reason, which ours alone gives.
VOLATILE_FIELDS = (
    "/details",
    *(f"/*/workers/*/{field}" for field in ("id", "pid", "startTime", "memoryUsage", "gpuUsage")),
)

#: Why there is no answer, where there is no server.
NOBODY_ANSWERS = "nobody answers at its address"

Part = Literal["answer", "status", "header", "body"]


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the old server said and what the new one says; `where` names the header or the field."""

    part: Part
    old: str
    new: str
    where: str = ""


class ServerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a server answered; a `failure` is why there was no answer, and then all else is empty."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    #: Its beginning, up to a limit; the rest is known by size and hash.
    body: bytes = b""
    body_bytes: int = 0
    body_sha256: str = ""
    seconds: float = 0.0
    failure: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether all of the body was kept."""
        return len(self.body) == self.body_bytes


class Tolerance(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as equal all the same."""

    rtol: float = 0.0
    atol: float = 0.0
    #: JSON pointers; `*` is any key or index.
    fields: tuple[str, ...] = VOLATILE_FIELDS
    #: Names of headers, in small letters.
    headers: frozenset[str] = VOLATILE_HEADERS


def tolerance(rtol: float, atol: float, fields: Iterable[str], headers: Iterable[str]) -> Tolerance:
    """Make a tolerance of what is said, beside what differs between any two servers."""
    names = VOLATILE_HEADERS | {name.lower() for name in headers}
    return Tolerance(rtol=rtol, atol=atol, fields=(*VOLATILE_FIELDS, *fields), headers=names)


def differences(
    old: ServerAnswer, new: ServerAnswer, allowed: Tolerance, *, is_metrics: bool = False
) -> list[Difference]:
    """Return in what two answers to one request differ."""
    if old.failure or new.failure:
        # Where neither is there, nothing has been compared.
        is_same = old.failure == new.failure != NOBODY_ANSWERS
        return [] if is_same else [Difference("answer", old.failure or "answered", new.failure or "answered")]
    found: list[Difference] = []
    found += _headers(old, new, allowed)
    if old.status != new.status:
        # Their bodies say different things; field by field that tells nobody anything.
        found.insert(0, Difference("status", str(old.status), str(new.status)))
        found.append(Difference("body", _beginning(old), _beginning(new)))
    elif (old.body_bytes, old.body_sha256) != (new.body_bytes, new.body_sha256):
        found += _bodies(old, new, allowed, is_metrics)
    return found[:DIFFERENCES_LIMIT]


def digest(body: bytes) -> str:
    """Hash a body as answers have it."""
    return hashlib.sha256(body).hexdigest()


def _headers(old: ServerAnswer, new: ServerAnswer, allowed: Tolerance) -> Iterator[Difference]:
    before, after = (_by_name(answer.headers, allowed) for answer in (old, new))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield Difference("header", _shown(before.get(name)), _shown(after.get(name)), name)


def _by_name(headers: Sequence[tuple[str, str]], allowed: Tolerance) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        if key not in allowed.headers:
            found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def _bodies(
    old: ServerAnswer, new: ServerAnswer, allowed: Tolerance, is_metrics: bool
) -> Iterator[Difference]:
    if not (old.is_whole and new.is_whole):
        yield Difference("body", _size(old), _size(new), "too large to be compared by content")
        return
    if is_metrics:
        yield from _metrics(old.body, new.body)
        return
    try:
        before, after = json.loads(old.body), json.loads(new.body)
        yield from _values(before, after, "", allowed)
    except (ValueError, RecursionError):
        yield from _bytes(old, new)


def _values(old: object, new: object, where: str, allowed: Tolerance) -> Iterator[Difference]:
    if any(_matches(pattern, where) for pattern in allowed.fields):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            place = f"{where}/{_escaped(key)}"
            if key in old and key in new:
                yield from _values(old[key], new[key], place, allowed)
            elif not any(_matches(pattern, place) for pattern in allowed.fields):
                yield Difference("body", _json(old, key), _json(new, key), place)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield Difference("body", f"{len(old)} items", f"{len(new)} items", where or "/")
            return
        for at, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _values(before, after, f"{where}/{at}", allowed)
    elif not _are_equal(old, new, allowed):
        yield Difference("body", _shown(_text(old)), _shown(_text(new)), where or "/")


def _are_equal(old: object, new: object, allowed: Tolerance) -> bool:
    # Booleans are numbers to Python.
    if isinstance(old, bool) or isinstance(new, bool) or not isinstance(new, int | float):
        return type(old) is type(new) and old == new
    if not isinstance(old, int | float):
        return False
    try:  # numpy's rule, with the old server's value as the one that is right
        if old == new or (math.isnan(old) and math.isnan(new)):
            return True
        return abs(old - new) <= allowed.atol + allowed.rtol * abs(old)
    except OverflowError:  # of whole numbers, which have no end
        return False


def _matches(pattern: str, where: str) -> bool:
    wanted, found = pattern.split("/"), where.split("/")
    return len(wanted) == len(found) and all(
        part in ("*", place) for part, place in zip(wanted, found, strict=True)
    )


def _metrics(old: bytes, new: bytes) -> Iterator[Difference]:
    # Ours has more of them, which no dashboard of TorchServe's asks for.
    for name in sorted(_metric_names(old) - _metric_names(new)):
        yield Difference("body", "there", "missing", name)


def _metric_names(body: bytes) -> set[str]:
    return set(re.findall(r"^([A-Za-z_:][\w:]*)", body.decode("utf-8", "replace"), re.MULTILINE))


def _bytes(old: ServerAnswer, new: ServerAnswer) -> Iterator[Difference]:
    """Tell where texts differ by their line, and other bytes by their offset."""
    try:
        rows = [answer.body.decode().splitlines() for answer in (old, new)]
    except UnicodeDecodeError:
        at = next((n for n, (a, b) in enumerate(zip(old.body, new.body, strict=False)) if a != b), None)
        at = min(old.body_bytes, new.body_bytes) if at is None else at
        yield Difference("body", _size(old), _size(new), f"from byte {at} on")
        return
    for number in range(max(len(rows[0]), len(rows[1]))):
        before, after = (row[number] if number < len(row) else None for row in rows)
        if before != after:
            yield Difference("body", _shown(before), _shown(after), f"line {number + 1}")
            return
    yield Difference("body", _size(old), _size(new), "line breaks")


def _beginning(answer: ServerAnswer) -> str:
    return _shown(" ".join(answer.body[: 4 * SHOWN_CHARS].decode("utf-8", "replace").split())) or "empty"


def _size(answer: ServerAnswer) -> str:
    return f"{answer.body_bytes} bytes"


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _json(values: dict[str, object], key: str) -> str:
    return _shown(_text(values[key])) if key in values else _shown(None)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shown(text: str | None) -> str:
    if text is None:
        return "missing"
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."
