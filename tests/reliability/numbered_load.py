"""Clients with numbered requests at a fixed rate; what became of each is kept, whatever became of the others.

Each request has a connection of its own on the gateway's unix socket, and a deadline in its header.
"""

import asyncio
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec

from torchrelay.shared import clock

#: One request in so many is larger than what goes inside a message's head.
LARGE_EVERY, LARGE_BYTES = 20, 100_000
#: How long a client goes on waiting after its deadline, so that late answers show as late ones.
PATIENCE_S = 20.0


#: Answered with its own body; with another; an error; its connection broke, or was never taken; answered
#: twice; nothing came at all.
ENDS = ("answered", "wrong", "refused", "broken", "not taken", "twice", "none")


class Outcome(msgspec.Struct, frozen=True):
    """What became of one request; `end` is one of ENDS."""

    number: int
    started_at: float
    took_s: float
    end: str
    status: int = 0
    words: str = ""


class NotTaken(Exception):
    """Nobody took the connection; the text says what the kernel said."""


class NumberedLoad:
    """Sends requests from a thread of its own until it is left, and then waits for their ends."""

    def __init__(self, path: Path, model: str, *, per_s: float, deadline_s: float, first: int) -> None:
        self._path = path
        self._model = model
        self._per_s = per_s
        self.deadline_s = deadline_s
        self._first = first
        self._is_over = threading.Event()
        self.outcomes: list[Outcome] = []
        self.sent = 0
        self._thread = ThreadPoolExecutor(1, "clients")
        self._end: Future[None] | None = None

    def __enter__(self) -> "NumberedLoad":
        self._end = self._thread.submit(lambda: asyncio.run(self._run()))
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        assert self._end is not None
        self._end.result(self.deadline_s + 2 * PATIENCE_S)
        self._thread.shutdown()

    @property
    def next_number(self) -> int:
        """The number of the first request that isn't sent yet."""
        return self._first + self.sent

    def ends(self) -> Counter[str]:
        """Count the requests that have ended, by how."""
        return Counter(outcome.end for outcome in self.outcomes)

    async def _run(self) -> None:
        begun_at = clock.monotonic()
        async with asyncio.TaskGroup() as requests:
            while not self._is_over.is_set():
                requests.create_task(self._request(self._first + self.sent))
                self.sent += 1
                left_s = begun_at + self.sent / self._per_s - clock.monotonic()
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, left_s)):
                        await asyncio.Event().wait()

    async def _request(self, number: int) -> None:
        body = b"%d " % number
        if number % LARGE_EVERY == 0:
            body = (body * LARGE_BYTES)[:LARGE_BYTES]
        started_at = clock.monotonic()
        end, status, words = "none", 0, ""
        try:
            async with asyncio.timeout(self.deadline_s + PATIENCE_S):
                end, status, words = judge(await self._ask(body), body)
        except TimeoutError:
            pass
        except NotTaken as error:
            end, words = "not taken", str(error)
        except OSError as error:
            end, words = "broken", type(error).__name__
        took_s = clock.monotonic() - started_at
        self.outcomes.append(Outcome(number, started_at, took_s, end, status, words))

    async def _ask(self, body: bytes) -> bytes:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._path))
        except OSError as error:
            raise NotTaken(type(error).__name__) from error
        try:
            writer.write(
                b"POST /predictions/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n"
                b"x-request-timeout-ms: %d\r\n\r\n%s"
                % (self._model.encode(), len(body), self.deadline_s * 1000, body)
            )
            return await reader.read(-1)
        finally:
            writer.close()


def judge(answer: bytes, body: bytes) -> tuple[str, int, str]:
    """Say what all that came on a connection is: how the request ended, its status, the server's words."""
    head, separator, rest = answer.partition(b"\r\n\r\n")
    if not separator:
        return "broken", 0, "no answer" if not answer else "half a head"
    status = int(head.split(b" ", 2)[1])
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].split(b":")[1]) if lengths else len(rest)
    if len(rest) < length:
        return "broken", status, "half an answer"
    if len(rest) > length:
        return "twice", status, rest[length : length + 80].decode(errors="replace")
    if status != 200:
        return "refused", status, rest[-300:].decode(errors="replace")  # the details come last
    return ("answered", 200, "") if rest == body else ("wrong", 200, rest[:80].decode(errors="replace"))
