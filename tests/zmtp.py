"""A peer that speaks ZMTP byte by byte, and so can say what no zmq socket would."""

import select
import socket
import struct
import time
from collections.abc import Sequence

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4


def frame(body: bytes, flags: int = 0) -> bytes:
    """Return a message part, or with COMMAND a command, as it is sent."""
    if len(body) > 255:
        return bytes([flags | LONG]) + struct.pack("!Q", len(body)) + body
    return bytes([flags, len(body)]) + body


def ready(properties: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the command that ends a handshake."""
    packed = (bytes([len(name)]) + name + struct.pack("!I", len(value)) + value for name, value in properties)
    return frame(b"\x05READY" + b"".join(packed), COMMAND)


def dealer(routing_id: bytes) -> bytes:
    """Return the READY of a DEALER with this routing id; with b"" the ROUTER gives it one."""
    return ready([(b"Socket-Type", b"DEALER"), (b"Identity", routing_id)])


class Peer:
    """A connection to a listener on loopback."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), timeout=10)

    def send(self, *chunks: bytes) -> None:
        """Send bytes as they are; what the other side has closed already takes none."""
        try:
            for chunk in chunks:
                self.socket.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            return

    def pour(self, chunk: bytes, times: int, within_s: float) -> bool:
        """Send the same again and again; tell whether the other side hung up meanwhile, or soon after."""
        deadline = time.monotonic() + within_s
        self.socket.setblocking(False)
        left = memoryview(chunk * times)
        while time.monotonic() < deadline:
            readable, writable, _ = select.select([self.socket], [self.socket] if left else [], [], 0.1)
            try:
                if readable and not self.socket.recv(65536):
                    return True
                if writable:
                    left = left[self.socket.send(left[: 1 << 20]) :]
            except (BrokenPipeError, ConnectionResetError):
                return True
        return False

    def join(self, ready_command: bytes) -> None:
        """Go through the handshake; return when the other side has, or has hung up."""
        self.send(GREETING, ready_command)
        heard = b""
        while b"READY" not in heard:
            try:
                more = self.socket.recv(65536)
            except ConnectionResetError:
                return
            if not more:
                return
            heard += more

    def close(self) -> None:
        self.socket.close()
