"""One attack, in a process of its own: `python -m tests.attacks.attacker` with a `plan.AttackRun` on stdin.

Its sockets send no faster than it was told, it holds no more memory than it may, and it ends by itself.
"""

import re
import resource
import select
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec

from tests.attacks import plan
from torchrelay.shared import clock

#: What is sent at once; between two of them it is seen whether the server has answered.
SLICE_BYTES = 64 * 1024
CONNECT_LIMIT_S = 5.0
#: A server that takes nothing for so long holds its client back.
SEND_LIMIT_S = 1.0
ANSWER_LIMIT_S = 20.0
OPEN_FILES = 8192
INFERENCE, MANAGEMENT = 8080, 8081
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3})")


class Throttle:
    """Lets through so many bytes and messages in a second, evenly."""

    def __init__(self, bytes_per_s: float, messages_per_s: float) -> None:
        self._bytes_per_s, self._messages_per_s = bytes_per_s, messages_per_s
        self._free_at = clock.monotonic()

    def spend(self, size: int, messages: int = 0) -> None:
        """Wait until it may be sent."""
        now = clock.monotonic()
        self._free_at = max(self._free_at, now)
        wait_s = self._free_at - now
        self._free_at += max(size / self._bytes_per_s, messages / self._messages_per_s)
        pause(wait_s)


class Line:
    """A connection of an attacker."""

    def __init__(self, attacker: "Attacker", made: socket.socket) -> None:
        self._attacker = attacker
        self.socket = made
        self.is_closed = False
        #: What the server has sent.
        self.received = bytearray()

    def send(self, data: bytes, messages: int = 0) -> bool:
        """Send; return False where the server has closed, or takes nothing."""
        for start in range(0, len(data), SLICE_BYTES):
            piece = memoryview(data)[start : start + SLICE_BYTES]
            self._attacker.throttle.spend(len(piece), messages if not start else 0)
            try:
                self.socket.sendall(piece)
            except TimeoutError:
                self._attacker.counts["held back"] += 1
                return False
            except OSError:
                self.is_closed = True
                return False
            self._attacker.sent_bytes += len(piece)
        return True

    def has_news(self, within_s: float = 0.0) -> bool:
        """Tell whether the server has sent something or closed."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(max(0.0, within_s) * 1000))

    def receive(self, size: int = SLICE_BYTES) -> bytes:
        """Return what has come; nothing where the server has closed."""
        try:
            data = self.socket.recv(size)
        except TimeoutError:
            return b""
        except OSError:
            data = b""
        self.is_closed = not data
        self.received += data
        return data

    def read_to_end(self, within_s: float = ANSWER_LIMIT_S) -> bytes:
        """Return all that comes until the server closes, or until patience ends."""
        until = clock.monotonic() + within_s
        while not self.is_closed and (left_s := until - clock.monotonic()) > 0:
            if self.has_news(left_s):
                self.receive()
        return bytes(self.received)

    def status(self, within_s: float = ANSWER_LIMIT_S) -> str:
        """Read an answer's status, and drop what follows it; `closed` or `no answer` where there is none."""
        until = clock.monotonic() + within_s
        while not (found := _STATUS_LINE.match(self.received)):
            left_s = until - clock.monotonic()
            if self.is_closed or left_s <= 0:
                return "closed" if self.is_closed else "no answer"
            if self.has_news(left_s):
                self.receive()
        return found[1].decode()

    def close(self) -> None:
        self.socket.close()


class Attacker:
    """What attacks have in common: where to, how fast, until when, and what was seen."""

    def __init__(self, attack_run: plan.AttackRun) -> None:
        self.target = attack_run.target
        self.throttle = Throttle(attack_run.bytes_per_s, attack_run.messages_per_s)
        self.until = clock.monotonic() + attack_run.seconds
        self.counts: Counter[str] = Counter()
        self.breaches: dict[str, None] = {}
        self.sent_bytes = 0

    @property
    def is_over(self) -> bool:
        """Whether the attack's time has passed."""
        return clock.monotonic() >= self.until

    def rounds(self, interval_s: float = 0.0) -> Iterator[int]:
        """Count until the attack's time has passed, with a pause between."""
        number = 0
        while not self.is_over:
            yield number
            number += 1
            pause(min(interval_s, max(0.0, self.until - clock.monotonic())))

    def dial(self, port: int = INFERENCE, *, receive_bytes: int = 0) -> Line | None:
        """Connect from the attacker's address; None where the server takes nobody."""
        made = socket.socket()
        made.settimeout(CONNECT_LIMIT_S)
        if receive_bytes:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            made.bind((plan.SOURCE, 0))
            made.connect((self.target.address, port))
        except OSError as error:
            made.close()
            self.counts[f"not connected: {type(error).__name__}"] += 1
            pause(0.2)
            return None
        made.settimeout(SEND_LIMIT_S)
        self.throttle.spend(0, 1)
        return Line(self, made)

    def ask(self, request: bytes, port: int = INFERENCE, within_s: float = ANSWER_LIMIT_S) -> str:
        """Send one request on a connection of its own; count and return its status."""
        line = self.dial(port)
        if line is None:
            return "not connected"
        line.send(request)
        status = line.status(within_s)
        line.close()
        self.counts[status] += 1
        return status

    def read(self, path: str) -> bytes:
        """Read what the management API says, as its operator does; nothing where it doesn't answer."""
        line = self.dial(MANAGEMENT)
        if line is None:
            return b""
        line.send(head(f"GET {path}", "Connection: close"))
        answer = line.read_to_end()
        line.close()
        return answer.partition(b"\r\n\r\n")[2] if answer.startswith(b"HTTP/1.1 200") else b""

    def breach(self, what: str) -> None:
        """Note something that nobody should get."""
        self.breaches[what] = None

    def seen(self) -> plan.AttackReport:
        """Sum up."""
        counts = ", ".join(f"{what} x {count}" for what, count in self.counts.most_common(8))
        text = (
            f"sent {self.sent_bytes / 1e6:,.1f} MB; {counts}" if counts else f"sent {self.sent_bytes} bytes"
        )
        return plan.AttackReport(text, tuple(self.breaches))


def head(line: str, *headers: str) -> bytes:
    """Write a request's head."""
    return "\r\n".join((f"{line} HTTP/1.1", "Host: localhost", *headers, "", "")).encode("latin-1")


def pour(
    attacker: Attacker,
    openings: Iterator[tuple[int, bytes, Callable[[], bytes]]],
    connections: int = 4,
) -> None:
    """Send without end on a few connections in turn; one that is answered or closed gives way to the next.

    An opening is a port, what is sent first, and what makes the pieces after it.
    """
    lines: list[tuple[Line, Callable[[], bytes]]] = []
    while not attacker.is_over:
        while len(lines) < connections and not attacker.is_over:
            port, opening, piece = next(openings)
            line = attacker.dial(port)
            if line is not None:
                line.send(opening)
                lines.append((line, piece))
        for line, piece in list(lines):
            if line.has_news() or (not line.send(piece()) and line.is_closed):
                attacker.counts[line.status(within_s=1.0)] += 1
                lines.remove((line, piece))
                line.close()
    attacker.counts["still open"] += len(lines)
    for line, _ in lines:
        line.close()


def pause(seconds: float) -> None:
    """Wait."""
    if seconds > 0:
        threading.Event().wait(seconds)


def main() -> None:
    """Run the attack that stdin describes and write what was seen."""
    from tests.attacks.catalog import ATTACKS

    attack_run = msgspec.json.decode(sys.stdin.buffer.read(), type=plan.AttackRun)
    resource.setrlimit(resource.RLIMIT_AS, (plan.ATTACKER_MEMORY_BYTES,) * 2)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, most), most))
    attacker = Attacker(attack_run)
    with suppress(BrokenPipeError):
        ATTACKS[attack_run.attack].run(attacker)
        sys.stdout.buffer.write(msgspec.json.encode(attacker.seen()))


if __name__ == "__main__":
    main()
