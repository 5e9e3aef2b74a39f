"""Honest clients: predictions at a fixed rate, each sent when it is due, whatever became of those before."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import suppress

from tests.attacks.verdicts import Outcome
from torchrelay.shared import clock

PER_S = 100.0
#: Who waits longer has failed.
ANSWER_LIMIT_S = 10.0
MODEL = "echo"
#: Of their bodies one in twenty is larger than what fits a segment.
BODIES = (b"torchrelay-64-by" * 4, b"torchrelay-64-by" * 4096)
LARGE_EVERY = 20
#: A connection that was idle this long is not used again, as clients do: the server may be closing it.
IDLE_LIMIT_S = 10.0

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Clients:
    """Sends requests until told to stop, and keeps what became of each."""

    def __init__(self, address: str, port: int, *, per_s: float = PER_S) -> None:
        self._address, self._port, self._per_s = address, port, per_s
        self._idle: list[tuple[float, _Connection]] = []
        self._is_over = asyncio.Event()
        self.outcomes: list[Outcome] = []

    async def run(self) -> None:
        """Send a request whenever one is due."""
        begun_at = clock.monotonic()
        async with asyncio.TaskGroup() as requests:
            for number in itertools.count():
                with suppress(TimeoutError):
                    left_s = begun_at + number / self._per_s - clock.monotonic()
                    await asyncio.wait_for(self._is_over.wait(), max(0.0, left_s))
                if self._is_over.is_set():
                    break
                requests.create_task(self._request(BODIES[number % LARGE_EVERY == 1]))
        while self._idle:
            self._idle.pop()[1][1].close()

    def stop(self) -> None:
        """Send no further request; those under way are waited for."""
        self._is_over.set()

    async def _request(self, body: bytes) -> None:
        started_at = clock.monotonic()
        fault = ""
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                fault = await self._answer(body)
        except TimeoutError:
            fault = "no answer"
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            fault = type(error).__name__
        self.outcomes.append(Outcome(started_at, clock.monotonic() - started_at, fault))

    async def _answer(self, body: bytes) -> str:
        """Send a request; return what is wrong with its answer."""
        for connection in self._kept():
            try:
                return await self._on(connection, body)
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise
            except ConnectionError:
                pass  # closed while it was idle
        return await self._on(await asyncio.open_connection(self._address, self._port), body)

    def _kept(self) -> Iterator[_Connection]:
        while self._idle:
            since, connection = self._idle.pop()
            if clock.monotonic() - since < IDLE_LIMIT_S:
                yield connection
            else:
                connection[1].close()

    async def _on(self, connection: _Connection, body: bytes) -> str:
        reader, writer = connection
        is_kept = False
        try:
            writer.write(
                f"POST /predictions/{MODEL} HTTP/1.1\r\nHost: {self._address}:{self._port}\r\n"
                f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:"))
            answer = await reader.readexactly(length)
            is_kept = "connection: close" not in head
            status = head.split(" ", 2)[1]
            if status != "200":
                return status
            return "" if answer == body else "another answer"
        finally:
            if is_kept:
                self._idle.append((clock.monotonic(), connection))
            else:
                writer.close()
