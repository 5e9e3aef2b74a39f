"""ZeroMQ's wire as raw bytes (ZMTP 3.0, https://rfc.zeromq.org/spec/23/), to be sent as no library would.

Whoever is let in has a key: what it says is sealed, as CurveZMQ has it.
"""

import os
from typing import Literal

from tests import curve_client
from tests.attacks.attacker import Attacker, Line, pause
from tests.curve_client import COMMAND, GREETING, CurveClient
from torchrelay.shared import clock
from torchrelay.shared.wire import codec, messages

PLAIN_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
HANDSHAKE_LIMIT_S = 2.0
WELCOME_LIMIT_S = 5.0
REFUSALS = (messages.Misunderstood, messages.Leave)
PROTOCOL = messages.PROTOCOL_VERSION
Role = Literal["gateway", "node"]


def role_of(hello: messages.Message) -> Role:
    """Return who may say a hello; a worker's is said by its node, which may not."""
    return "gateway" if isinstance(hello, messages.HelloGateway) else "node"


class Peer:
    """A connection to the broker's port, by a key that is let in."""

    def __init__(self, line: Line, client: CurveClient) -> None:
        self.line = line
        self.client = client
        self.epoch = 0
        self._is_more = False

    def say(self, message: messages.Message, *frames: bytes) -> bool:
        """Send a message of ours, whatever is in it; return False where nobody takes it."""
        return self.send(codec.encode(message, self.epoch), *frames)

    def send(self, head: bytes, *frames: bytes) -> bool:
        """Send a message whose head may be anything."""
        parts = [head, *frames]
        sealed = (
            self.client.message(part, more=number < len(parts) - 1) for number, part in enumerate(parts)
        )
        return self.line.send(b"".join(sealed), messages=1)

    def hello(self, message: messages.Message, within_s: float = WELCOME_LIMIT_S) -> bool:
        """Say hello and wait for the Welcome, which tells the epoch; return False where none comes."""
        return self.say(message) and self.hear(messages.Welcome, within_s) is not None

    def hear(
        self, kind: type[messages.Message], within_s: float = WELCOME_LIMIT_S
    ) -> messages.Message | None:
        """Read messages until one of a kind comes; None where one refuses what was said, or none comes."""
        until = clock.monotonic() + within_s
        while not self.line.is_closed and (left_s := until - clock.monotonic()) > 0:
            for message in self._messages():
                if isinstance(message, kind):
                    return message
                if isinstance(message, REFUSALS):
                    return None
            if self.line.has_news(left_s):
                self.line.receive()
        return None

    def _messages(self) -> list[messages.Message]:
        """Take apart what has come; frames behind a head are passed over."""
        found = []
        while (body := curve_client.take_frame(self.line.received)) is not None:
            flags, said = self.client.heard(body)
            if flags & COMMAND:
                continue
            is_head, self._is_more = not self._is_more, bool(flags & curve_client.MORE)
            if is_head:
                message, self.epoch = codec.decode(said)
                found.append(message)
        return found

    def close(self) -> None:
        self.line.close()


def dial(
    attacker: Attacker,
    identity: bytes | None = None,
    *,
    role: Role = "gateway",
    secret: str = "",
    receive_bytes: int = 0,
) -> Peer | None:
    """Connect to the broker by the key of a member, or by another; None where it lets nobody in.

    An identity means nothing to a broker that asks for keys.
    """
    line = attacker.dial(attacker.target.broker_port, receive_bytes=receive_bytes)
    if line is None:
        return None
    own = secret or (attacker.target.gateway_key if role == "gateway" else attacker.target.node_key)
    properties = {b"X-Session": os.urandom(8).hex().encode()}
    if identity is not None:
        properties[b"Identity"] = identity
    client = CurveClient(bytes.fromhex(attacker.target.broker_key), bytes.fromhex(own), properties)
    if shake_hands(line, client):
        return Peer(line, client)
    line.close()
    attacker.counts["handshakes that failed"] += 1
    pause(0.02)
    return None


def shake_hands(line: Line, client: CurveClient) -> bool:
    """Go through a handshake in its steps; tell whether the broker has let in whoever it is."""
    line.send(GREETING)
    until = clock.monotonic() + HANDSHAKE_LIMIT_S
    while len(line.received) < len(GREETING):
        if not _has_more(line, until):
            return False
    del line.received[: len(GREETING)]
    line.send(client.hello())
    welcome = next_frame(line, until)
    if welcome is None or not welcome.startswith(b"\x07WELCOME"):
        return False
    line.send(client.initiate(welcome))
    ready = next_frame(line, until)
    return ready is not None and ready.startswith(b"\x05READY")


def next_frame(line: Line, until: float) -> bytes | None:
    """Return the next frame's body; None where none comes."""
    while (body := curve_client.take_frame(line.received)) is None:
        if not _has_more(line, until):
            return None
    return body


def _has_more(line: Line, until: float) -> bool:
    if line.is_closed or not line.has_news(until - clock.monotonic()):
        return False
    line.receive()
    return not line.is_closed
