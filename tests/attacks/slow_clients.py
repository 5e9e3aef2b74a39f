"""Attacks by clients that are slow: bodies and heads that drip, idle connections, answers nobody reads."""

from collections.abc import Callable

from tests.attacks.attacker import INFERENCE, MANAGEMENT, Attacker, Line, head, pause

PREDICT = "POST /predictions/large"
ANNOUNCED_BYTES = 6_500_000
BODIES, HEADS, IDLE, READERS = 200, 400, 1000, 80
ANSWER_BYTES = 6_000_000
#: Between two drops.
DROP_S = 1.0
#: Between two bytes that a reader takes of its answer, which shows that it lives.
SIP_S = 5.0
RECEIVE_BYTES = 4096


def bodies(attacker: Attacker) -> None:
    """Announce bodies and send a byte a second of each."""
    openings = [
        head(PREDICT, f"Content-Length: {ANNOUNCED_BYTES}") + b"a",
        head(PREDICT, "Transfer-Encoding: chunked") + b"5F5E100\r\na",
        head(PREDICT, f"Content-Length: {ANNOUNCED_BYTES}") + b"a" * 60_000,
    ]
    _drip(attacker, BODIES, lambda number: openings[number % len(openings)], b"a")


def slow_heads(attacker: Attacker) -> None:
    """Send heads, a byte a second of each."""
    _drip(attacker, HEADS, lambda _: b"GET /ping HTTP/1.1\r\nX: ", b"a")


def idle(attacker: Attacker) -> None:
    """Connect and say nothing, on both ports."""
    _drip(attacker, IDLE, lambda number: b"" if number % 2 else head("GET /ping"), b"")


def _drip(attacker: Attacker, count: int, opening: Callable[[int], bytes], drop: bytes) -> None:
    lines: list[Line] = []
    opened = 0
    for _ in attacker.rounds(DROP_S):
        for line in list(lines):
            if drop and not line.send(drop) and line.is_closed:
                attacker.counts[line.status(0.1)] += 1
            elif line.has_news():
                line.receive()
            if line.is_closed:
                lines.remove(line)
                line.close()
        while len(lines) < count and not attacker.is_over:
            line_or_none = attacker.dial(MANAGEMENT if opened % 4 == 3 else INFERENCE)
            if line_or_none is None:
                break
            line_or_none.send(opening(opened))
            lines.append(line_or_none)
            opened += 1
    attacker.counts["connections"] = opened
    attacker.counts["still open"] = len(lines)


def readers(attacker: Attacker) -> None:
    """Ask for large answers and read a byte of each now and then."""
    body = b"answer %d" % ANSWER_BYTES
    request = head(PREDICT, f"Content-Length: {len(body)}") + body
    lines: list[Line] = []
    opened = 0
    for _ in attacker.rounds(SIP_S):
        for line in list(lines):
            if line.has_news():
                line.receive(1)
            if line.is_closed:
                attacker.counts["closed by the server"] += 1
                lines.remove(line)
                line.close()
        while len(lines) < READERS and not attacker.is_over:
            line_or_none = attacker.dial(receive_bytes=RECEIVE_BYTES)
            if line_or_none is None:
                break
            line_or_none.send(request)
            lines.append(line_or_none)
            opened += 1
            pause(0.05)  # the model's worker makes them one after another
    attacker.counts["requests"] = opened
    attacker.counts["still open"] = len(lines)
