"""ZeroMQ's wire as raw bytes (ZMTP 3.0, https://rfc.zeromq.org/spec/23/), to be sent as no library would."""

import os
import struct

from tests.attacks.attacker import Attacker, Line
from torchrelay.shared import clock
from torchrelay.shared.wire import codec, messages

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4
HANDSHAKE_LIMIT_S = 2.0
WELCOME_LIMIT_S = 5.0
REFUSALS = (messages.Misunderstood, messages.Leave)
PROTOCOL = messages.PROTOCOL_VERSION


def frame(data: bytes, *, more: bool = False, command: bool = False) -> bytes:
    """Write one frame."""
    flags = MORE * more | COMMAND * command
    if len(data) < 256:
        return bytes((flags, len(data))) + data
    return struct.pack("!BQ", flags | LONG, len(data)) + data


def ready(identity: bytes) -> bytes:
    """Write the command that ends a handshake; an empty identity has the broker make one up."""
    values = {b"Socket-Type": b"DEALER", b"Identity": identity}
    properties = b"".join(
        bytes((len(name),)) + name + struct.pack("!I", len(value)) + value for name, value in values.items()
    )
    return frame(b"\x05READY" + properties, command=True)


class Peer:
    """A connection to the broker's port."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.epoch = 0
        self._greeted = False
        self._is_more = False

    def say(self, message: messages.Message, *frames: bytes) -> bool:
        """Send a message of ours, whatever is in it; return False where nobody takes it."""
        return self.send(codec.encode(message, self.epoch), *frames)

    def send(self, head: bytes, *frames: bytes) -> bool:
        """Send a message whose head may be anything."""
        parts = [head, *frames]
        data = b"".join(frame(part, more=number < len(parts) - 1) for number, part in enumerate(parts))
        return self.line.send(data, messages=1)

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
        data, found = self.line.received, []
        if not self._greeted:
            if len(data) < len(GREETING):
                return []
            del data[: len(GREETING)]
            self._greeted = True
        while len(data) >= 2:
            flags = data[0]
            start = 9 if flags & LONG else 2
            if len(data) < start:
                break
            size = struct.unpack("!Q", data[1:9])[0] if flags & LONG else data[1]
            if len(data) < start + size:
                break
            body = bytes(data[start : start + size])
            del data[: start + size]
            if flags & COMMAND:
                continue
            is_head, self._is_more = not self._is_more, bool(flags & MORE)
            if is_head:
                message, self.epoch = codec.decode(body)
                found.append(message)
        return found

    def close(self) -> None:
        self.line.close()


def dial(attacker: Attacker, identity: bytes | None = None, *, receive_bytes: int = 0) -> Peer | None:
    """Connect to the broker as a peer of this identity, a random one if none is given."""
    line = attacker.dial(attacker.target.broker_port, receive_bytes=receive_bytes)
    if line is None:
        return None
    # In steps, as libraries do: libzmq leaves what comes together with a greeting until more comes.
    line.send(GREETING)
    if _has_come(line, len(GREETING)):
        line.send(ready(b"x" + os.urandom(16) if identity is None else identity))
        _has_come(line, len(GREETING) + len(ready(b"")))
    return Peer(line)


def _has_come(line: Line, size: int) -> bool:
    until = clock.monotonic() + HANDSHAKE_LIMIT_S
    while len(line.received) < size and not line.is_closed:
        if not line.has_news(until - clock.monotonic()):
            return False
        line.receive()
    return not line.is_closed
