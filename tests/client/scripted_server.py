"""A server that says exactly the bytes that a test gives it, and remembers what it was sent."""

import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

#: After its bytes the server ends the connection, resets it, or says nothing more until the client leaves.
END, RESET, SILENCE = b"<end>", b"<reset>", b"<silence>"


class ScriptedServer:
    """Answers each connection's only request with the next of its answers; the last one stays."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._serve)
        #: The requests, heads and bodies.
        self.asked: list[bytes] = []
        self._thread.start()

    def close(self) -> None:
        for one in (self._listener, *self._open):
            _end(one)
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            request = _request(connection)
            if not request:
                continue
            self.asked.append(request)
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            self._say(connection, answer)

    def _say(self, connection: socket.socket, answer: bytes) -> None:
        said = answer.removesuffix(END).removesuffix(RESET).removesuffix(SILENCE)
        try:
            connection.sendall(said)
        except OSError:
            return
        if answer.endswith(SILENCE):
            return
        if answer.endswith(RESET):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._open.discard(connection)
        connection.close()


def _end(one: socket.socket) -> None:
    """Wake who waits on a socket, and close it."""
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def _request(connection: socket.socket) -> bytes:
    """Read a request whose length is said, or that comes in chunks."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (bit := connection.recv(65536)):
            return b""
        received += bit
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
    while len(body) < int(length[1]) if length else b"chunked" in head and not body.endswith(b"0\r\n\r\n"):
        if not (bit := connection.recv(65536)):
            break
        body += bit
    return head + b"\r\n\r\n" + body


@contextmanager
def saying(*answers: bytes) -> Iterator[ScriptedServer]:
    server = ScriptedServer(answers)
    try:
        yield server
    finally:
        server.close()


def answer(
    body: bytes = b"{}",
    status: str = "200 OK",
    headers: Mapping[str, str] | None = None,
    *,
    ending: bytes = END,
    length: int | None = None,
) -> bytes:
    """Write an answer; `length` is what its head claims."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body) if length is None else length}"]
    lines += [f"{name}: {value}" for name, value in {"connection": "close", **(headers or {})}.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body + ending


def refusal(status: str, kind: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Write an error as the server does."""
    text = f'{{"code": {status[:3]}, "type": "{kind}", "message": "no"}}'
    return answer(text.encode(), status, headers)
