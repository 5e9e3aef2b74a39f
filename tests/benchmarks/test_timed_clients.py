"""Clients of the overload benchmark: which answer is whose, and when it came."""

import asyncio
import contextlib
import select
import time

import pytest

from benchmarks.timed_clients import TimedClient
from tests.support import HANG_S, eventually_async

MS = 1_000_000


async def test_an_answer_ends_with_its_body_however_it_comes() -> None:
    client = TimedClient(7)
    head = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 4\r\nContent-Length: 2\r\n\r\n"
    for byte in head + b"n":
        client.take(bytes([byte]), 0)
    assert not client.ended.done()
    client.asked_ns = 3 * MS
    client.take(b"o", 5 * MS)
    await client.ended
    assert client.answer is not None
    assert (client.status, client.answer.retry_after_s, client.answer.body) == (503, 4, b"no")
    assert client.answer.took_s == pytest.approx(0.002)
    assert client.answer.read_late_s > 0
    client.leave()


async def test_the_kernel_says_when_an_answer_came_however_late_it_is_read() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # the client has gone
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    client = await TimedClient.connected(*server.sockets[0].getsockname())
    # This program does not read what has come.
    asyncio.get_running_loop().remove_reader(client._socket)
    came_by_ns = 0
    async with asyncio.timeout(HANG_S):
        # The kernel begins to take the time a moment after the first socket has asked for it.
        while client.answer is None or client.answer.came_ns > came_by_ns:
            client.ask(b"GET / HTTP/1.1\r\n\r\n")
            await eventually_async(lambda: select.select([client._socket], [], [], 0)[0])
            came_by_ns = time.time_ns()
            client._read()
    assert client.asked_ns <= client.answer.came_ns <= came_by_ns <= client.answer.read_ns
    client.leave()
    server.close()


async def test_a_connection_that_ends_without_an_answer_has_none() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    client = await TimedClient.connected(*server.sockets[0].getsockname())
    await asyncio.wait_for(client.ended, 10)
    assert client.status == 0
    client.leave()  # once more is no harm
    server.close()


async def test_a_client_may_ask_again() -> None:
    client = TimedClient()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    client.take(answer + b"1", 0)
    assert client.ended.done()
    client._socket.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        client.ask(b"GET / HTTP/1.1\r\n\r\n")
    assert (client.status, client.ended.done()) == (0, False)
