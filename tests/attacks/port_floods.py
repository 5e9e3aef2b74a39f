"""Attacks on the broker's port below its messages, by whoever reaches it, and by members without manners."""

import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterator

from tests.attacks import zmtp
from tests.attacks.attacker import Attacker, Line, pause
from tests.attacks.port_messages import node
from tests.curve_client import COMMAND, GREETING, CurveClient, frame, take_frame
from torchrelay.shared import clock
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

IDLE, POURING, SLOW, FLOODING = 500, 8, 300, 4
PIECE_BYTES = 32 * 1024
#: What is said before a frame of so many bytes, which nobody who knows the protocol sends.
HUGE, LARGE = (bytes([COMMAND | 2]) + size.to_bytes(8, "big") for size in (1 << 40, 2_000_000_000))
PLAIN = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"PLAIN".ljust(20, b"\0") + bytes(32)
HELLO_BYTES = 194
#: Garbage that isn't taken by then, or not answered, is left alone.
HELD_BACK_S = 0.1
#: Between two bytes of a handshake.
DROP_S = 0.05
#: So many small messages are more than the broker takes ahead of a connection.
AHEAD = 1500


def garbage(attacker: Attacker) -> None:
    """Keep 500 connections that say nothing, and send beside them whatever is no handshake of ours."""
    idle: list[Line] = []
    pouring: list[tuple[Line, bytes]] = []
    kinds = itertools.cycle(_garbage(attacker))
    for _ in attacker.rounds():
        _drop_closed(attacker, idle)
        while len(idle) < IDLE and not attacker.is_over:
            if (line := attacker.dial(attacker.target.broker_port)) is None:
                break
            idle.append(line)
            attacker.counts["idle connections"] += 1
        while len(pouring) < POURING and not attacker.is_over:
            if (line := attacker.dial(attacker.target.broker_port)) is None:
                break
            opening, first, rest = next(kinds)
            line.socket.settimeout(HELD_BACK_S)
            _say(line, opening, first)
            pouring.append((line, rest))
            attacker.counts["connections with garbage"] += 1
        for line, rest in list(pouring):
            if not rest or not line.send(rest):
                pouring.remove((line, rest))
                line.close()
    for line in (*idle, *(one for one, _ in pouring)):
        line.close()


def _garbage(attacker: Attacker) -> list[tuple[bytes, bytes, bytes]]:
    """Return what is said first, what once the broker has greeted, and what from then on without end."""
    poured = os.urandom(PIECE_BYTES)
    hello = frame(b"\x05HELLO" + os.urandom(HELLO_BYTES), COMMAND)
    ready = frame(b"\x05READY\x0bSocket-Type\0\0\0\6DEALER", COMMAND)
    return [
        (poured, b"", poured),
        (GREETING, poured, poured),
        (GREETING, hello, b""),
        (GREETING, HUGE, poured),
        (GREETING, LARGE, poured),
        (GREETING, frame(b"x" * 100) * 100, b""),
        (zmtp.PLAIN_GREETING, ready, b""),
        (PLAIN, frame(b"\x05HELLO\1u\1p", COMMAND), b""),
        (b"GET / HTTP/1.1\r\n\r\n", b"", b""),
        (b"\xff" + b"\xff" * 8 + b"\x7f", poured, poured),
    ]


def _say(line: Line, opening: bytes, first: bytes) -> None:
    line.send(opening)
    until = clock.monotonic() + HELD_BACK_S
    while (
        len(line.received) < len(GREETING) and not line.is_closed and line.has_news(until - clock.monotonic())
    ):
        line.receive()
    if first:
        line.send(first)


def _drop_closed(attacker: Attacker, lines: list[Line]) -> None:
    for line in list(lines):
        if line.has_news() and not line.receive():
            attacker.counts["closed by the server"] += 1
            lines.remove(line)
            line.close()


def slow_handshakes(attacker: Attacker) -> None:
    """Say what a handshake begins with, a byte at a time, on 300 connections."""
    lines: dict[Line, Iterator[int]] = {}
    for _ in attacker.rounds(DROP_S):
        while len(lines) < SLOW and not attacker.is_over:
            if (line := attacker.dial(attacker.target.broker_port)) is None:
                break
            key = bytes.fromhex(attacker.target.broker_key)
            lines[line] = iter(GREETING + CurveClient(key, os.urandom(32)).hello())
            attacker.counts["connections"] += 1
        for line, left in list(lines.items()):
            byte = next(left, None)
            if (byte is not None and not line.send(bytes((byte,)))) or (
                line.has_news() and not line.receive()
            ):
                attacker.counts["closed by the server"] += 1
                del lines[line]
                line.close()
    for line in lines:
        line.close()


def unknown_keys(attacker: Attacker) -> None:
    """Shake hands by keys that nobody knows, and by invitations that are over, again and again."""
    target = attacker.target
    over = {"by a used invitation": target.used_invitation, "by an expired one": target.expired_invitation}
    for number in attacker.rounds():
        how, secret = "by an unknown key", os.urandom(32).hex()
        if number % 3:
            how, secret = list(over.items())[number % 3 - 1]
        peer = zmtp.dial(attacker, secret=secret)
        attacker.counts[how] += 1
        if peer is not None:
            attacker.breach(f"somebody was let in {how}")
            peer.close()


def repeated_frames(attacker: Attacker) -> None:
    """Say again what a member has said: a frame, frames in another order, its whole connection."""
    spoilers: list[Callable[[bytes, bytes], bytes]] = [
        lambda one, two: one + one,
        lambda one, two: two + one,
        lambda one, two: one[:-1] + bytes((one[-1] ^ 1,)) + two,
        lambda one, two: two[:20],
    ]
    for number in attacker.rounds(0.02):
        peer = zmtp.dial(attacker, role="node")
        if peer is None or not peer.hello(node("repeats")):
            continue
        said = [peer.client.message(codec.encode(m.NodeBeat(()), peer.epoch)) for _ in range(2)]
        peer.line.send(spoilers[number % len(spoilers)](*said))
        attacker.counts["connections spoilt"] += 1
        if number % 4 == 0 and _is_taken_for(attacker):
            attacker.breach("a repeated handshake was taken for its first time")
        peer.line.has_news(0.05)
        peer.close()


def _is_taken_for(attacker: Attacker) -> bool:
    """Record a member's handshake, and repeat its bytes; tell whether the broker goes on to the end."""
    sent: list[bytes] = []
    line = attacker.dial(attacker.target.broker_port)
    if line is None:
        return False
    recorded = _Recorded(line, sent)
    own = bytes.fromhex(attacker.target.node_key)
    zmtp.shake_hands(recorded, CurveClient(bytes.fromhex(attacker.target.broker_key), own))
    line.close()
    again = attacker.dial(attacker.target.broker_port)
    if again is None:
        return False
    heard: list[bytes] = []
    for piece in sent:
        again.send(piece)
        again.has_news(0.2)
        again.receive()
    del again.received[: len(GREETING)]
    while (body := take_frame(again.received)) is not None:
        heard.append(body)
    again.close()
    attacker.counts["handshakes repeated"] += 1
    return any(body.startswith(b"\x05READY") for body in heard)


class _Recorded(Line):
    """A connection that keeps what is said on it."""

    def __init__(self, line: Line, sent: list[bytes]) -> None:
        super().__init__(line._attacker, line.socket)
        self._sent = sent

    def send(self, data: bytes, messages: int = 0) -> bool:
        self._sent.append(data)
        return super().send(data, messages)


def resets(attacker: Attacker) -> None:
    """Send more than the broker takes ahead, on some connections at once, and reset them all."""
    for _ in attacker.rounds(0.2):
        peers = [peer for _ in range(FLOODING) if (peer := zmtp.dial(attacker, role="node"))]
        for peer in peers:
            peer.line.socket.settimeout(0.2)
            peer.line.send(b"".join(peer.client.message(b"x") for _ in range(AHEAD)), messages=AHEAD)
        for peer in peers:
            abort = struct.pack("ii", 1, 0)
            peer.line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
            peer.close()
        attacker.counts["connections reset"] += len(peers)
        pause(0.5)
