"""Attacks by what a request says: smuggled requests, endless heads and trailers, costly bodies, browsers."""

import itertools
import json
import re
from collections.abc import Callable, Iterator

from tests.attacks.attacker import INFERENCE, MANAGEMENT, Attacker, head, pour

PREDICT = "POST /predictions/echo"
#: What stands in bodies to be taken for a request: nobody else asks for that path.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_STATUS_LINES = re.compile(rb"HTTP/1\.1 (\d{3}) ")
#: Bodies below TorchServe's limit, 6,553,500 bytes.
BODY_BYTES = 6_500_000
PIECE_BYTES = 32 * 1024

_OFFERS = [
    ("Connection: Upgrade", "Upgrade: anything"),
    ("Connection: keep-alive, upgrade", "Upgrade: websocket"),
    ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
    ("Connection: upgrade", "Upgrade: "),
]
_LENGTH = f"Content-Length: {len(SMUGGLED)}"
_CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
#: Heads that say two things about their body; a server refuses them, or reads one of the two as others do.
_UNCLEAR = [
    ("Transfer-Encoding: chunked", _LENGTH),
    ("Transfer-Encoding: xchunked", _LENGTH),
    ("Transfer-Encoding: identity, chunked", _LENGTH),
    ("Transfer-Encoding:\x0bchunked", _LENGTH),
    ("Transfer-Encoding : chunked", _LENGTH),
    (f"Content-Length: +{len(SMUGGLED)}",),
    (f"Content-Length: {len(SMUGGLED)}, {len(SMUGGLED)}",),
    (_LENGTH, "Content-Length: 0"),
    ("Content-Length: 0", _LENGTH),
    (f"Content-Length: 0x{len(SMUGGLED):x}",),
    ("Content-Length: 18446744073709551616",),
]


def upgrades(attacker: Attacker) -> None:
    """Hide a request in the body of one that offers an upgrade, and pipeline one behind it."""
    kinds = itertools.cycle(
        (offer, is_chunked, is_split, method)
        for offer in _OFFERS
        for is_chunked in (False, True)
        for is_split in (False, True)
        for method in (PREDICT, "OPTIONS /predictions/echo", "PUT /predictions/echo")
    )
    for _ in attacker.rounds():
        offer, is_chunked, is_split, method = next(kinds)
        framing = "Transfer-Encoding: chunked" if is_chunked else _LENGTH
        first = head(method, *offer, framing)
        body = _CHUNKED if is_chunked else SMUGGLED
        _try(attacker, [first, body + LAST] if is_split else [first + body + LAST], is_clear=True)


def unclear_lengths(attacker: Attacker) -> None:
    """Say two things about a body's length."""
    kinds = itertools.cycle(_UNCLEAR)
    for _ in attacker.rounds():
        headers = next(kinds)
        is_chunked = any("chunked" in one for one in headers)
        _try(
            attacker,
            [head(PREDICT, *headers) + (_CHUNKED if is_chunked else SMUGGLED) + LAST],
            is_clear=False,
        )


def _try(attacker: Attacker, pieces: list[bytes], *, is_clear: bool) -> None:
    line = attacker.dial()
    if line is None:
        return
    for number, piece in enumerate(pieces):
        line.send(piece)
        if number < len(pieces) - 1:
            line.has_news(0.01)  # so that they come as segments of their own
    answers = [found.decode() for found in _STATUS_LINES.findall(line.read_to_end(5.0))]
    line.close()
    attacker.counts[" then ".join(answers) or "no answer"] += 1
    if len(answers) > 2 or "404" in answers:
        attacker.breach("a request in a body was carried out")
    if is_clear and len(answers) < 2 and "400" not in answers:
        attacker.breach("a request behind another had no answer")


_Opening = tuple[int, bytes, Callable[[], bytes]]


def trailers(attacker: Attacker) -> None:
    """Send trailers without end, and a trailer's value without end."""

    def openings() -> Iterator[_Opening]:
        for number in itertools.count():
            for port, line in (
                (INFERENCE, PREDICT),
                (INFERENCE, "POST /livez"),
                (MANAGEMENT, "GET /api-description"),
            ):
                chunked = head(line, "Transfer-Encoding: chunked")
                yield port, chunked + b"1\r\na\r\n0\r\n", _many_headers()
                yield port, chunked + b"0\r\nX-%d: " % number, lambda: b"v" * 4096

    pour(attacker, openings())


def chunk_extensions(attacker: Attacker) -> None:
    """Send an extension of a chunk without end, chunks of one byte with long extensions, endless sizes."""

    def openings() -> Iterator[_Opening]:
        chunked = head(PREDICT, "Transfer-Encoding: chunked")
        while True:
            yield INFERENCE, chunked + b"1;name=", lambda: b"v" * PIECE_BYTES
            yield INFERENCE, chunked, lambda: b"1;name=%s\r\na\r\n" % (b"v" * 8000)
            yield INFERENCE, chunked + b"0" * 100, lambda: b"0" * PIECE_BYTES

    pour(attacker, openings())


def small_chunks(attacker: Attacker) -> None:
    """Send bodies in chunks of one byte."""

    def openings() -> Iterator[_Opening]:
        while True:
            yield INFERENCE, head(PREDICT, "Transfer-Encoding: chunked"), lambda: b"1\r\na\r\n" * 5000
            yield INFERENCE, head("POST /livez", "Transfer-Encoding: chunked"), lambda: b"1\r\na\r\n" * 5000

    pour(attacker, openings())


def heads(attacker: Attacker) -> None:
    """Send heads without end: headers, one header, a target, a method."""

    def openings() -> Iterator[_Opening]:
        while True:
            yield INFERENCE, b"GET /ping HTTP/1.1\r\n", _many_headers()
            yield INFERENCE, b"GET /ping HTTP/1.1\r\nX: ", lambda: b"v" * PIECE_BYTES
            yield INFERENCE, b"GET /", lambda: b"v" * PIECE_BYTES
            yield MANAGEMENT, b"", lambda: b"\r\n" * 16_000

    pour(attacker, openings())


def _many_headers() -> Callable[[], bytes]:
    numbers = itertools.count()
    return lambda: b"".join(b"X-%d: v\r\n" % next(numbers) for _ in range(200))


def costly_bodies(attacker: Attacker) -> None:
    """Send bodies below the limit of a size that cost more than their size: forms, parts, JSON, numbers."""
    kinds = itertools.cycle(_costly_requests())
    for _ in attacker.rounds():
        attacker.ask(next(kinds))


def _costly_requests() -> list[bytes]:
    many = BODY_BYTES // 4
    nested = b"[" * (BODY_BYTES // 2) + b"]" * (BODY_BYTES // 2)
    infer = "POST /v2/models/echo/infer"
    bodies = [
        (PREDICT, "application/x-www-form-urlencoded", b"&" * BODY_BYTES),
        (PREDICT, "application/x-www-form-urlencoded", b"a=1&" * many),
        (PREDICT, "application/x-www-form-urlencoded", b"a=" + b"%41" * (BODY_BYTES // 3)),
        (PREDICT, "application/x-www-form-urlencoded", b"%" * BODY_BYTES),
        (PREDICT, "multipart/form-data; boundary=b", _part(b"form-data; name=a" + b";p=1" * many)),
        (
            PREDICT,
            "multipart/form-data; boundary=b",
            _part(b'form-data; name="' + b'\\"' * (BODY_BYTES // 2)),
        ),
        (
            PREDICT,
            "multipart/form-data; boundary=b",
            _part(b"form-data; name=a\r\n" + b"X: y\r\n" * (many // 2)),
        ),
        (PREDICT, "multipart/form-data; boundary=b", b"--b\r\n" + b"\r\n--b" * (BODY_BYTES // 5)),
        (PREDICT, f"multipart/form-data; boundary={'-' * 4000}", b"\r\n--" + b"-" * BODY_BYTES),
        (PREDICT, "multipart/form-data" + ";p" * 3900, b"x"),
        (PREDICT, "application/json", nested),
        (PREDICT, "application/json", b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000),
        (PREDICT, "application/json", b"[" + b"9" * (BODY_BYTES - 100) + b"]"),
        (PREDICT, "application/json", b"[1e999999999]"),
        (infer, "application/json", json.dumps({"inputs": [{}] * (BODY_BYTES // 8)}).encode()),
    ]
    requests = [
        head(line, f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close") + body
        for line, kind, body in bodies
    ]
    requests.append(head(f"GET /predictions/echo?a={'%41' * 1300}"))
    requests.append(head(f"GET /predictions/echo?{'&' * 4000}"))
    requests.append(head(PREDICT, *(f"X-{number}: v" for number in range(700)), "Content-Length: 0"))
    return requests


def _part(disposition: bytes) -> bytes:
    return b"--b\r\nContent-Disposition: " + disposition[: BODY_BYTES - 100] + b"\r\n\r\nx\r\n--b--\r\n"


def browsers(attacker: Attacker) -> None:
    """Ask as a page in an operator's browser does, from another site, and by another name of this host."""
    page = "Origin: http://page.example", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"
    register = "POST /models?url=echo.mar&model_name=intruder"
    tries = [
        ("a page of another site registered a model", register, (*page, "Content-Length: 0")),
        ("a page of another site registered a model", register, ("Origin: null", "Content-Length: 0")),
        ("a page of another site removed a model", "DELETE /models/large", page),
        ("a form of another site registered a model", register, (page[1], "Content-Length: 0")),
        ("a page of another port registered a model", register,
         ("Origin: http://localhost:9999", "Sec-Fetch-Site: same-site", "Content-Length: 0")),
    ]  # fmt: skip
    readings = [
        f"{method} {path}"
        for method, path in (("GET", "/fleet"), ("GET", "/models"), ("GET", "/models/echo"))
    ]
    hosts = [
        "page.example:8081",
        "page.example",
        "127.0.0.1.page.example:8081",
        "localhost.page.example",
        "page.example.",
    ]
    for number in attacker.rounds(0.05):
        what, line, headers = tries[number % len(tries)]
        own = f"Host: {attacker.target.address}:{MANAGEMENT}"
        status = attacker.ask(_with_host(own, line, *headers), MANAGEMENT)
        if status.startswith("2") or status == "409":
            attacker.breach(what)
        rebound = f"Host: {hosts[number % len(hosts)]}"
        if attacker.ask(_with_host(rebound, readings[number % len(readings)]), MANAGEMENT).startswith("2"):
            attacker.breach("a page read the management API by another name of this host")
        if not attacker.ask(_with_host(own, "GET /models"), MANAGEMENT).startswith("2"):
            attacker.breach("a request without an origin was refused")


def _with_host(host: str, line: str, *headers: str) -> bytes:
    return "\r\n".join((f"{line} HTTP/1.1", host, *headers, "", "")).encode()
