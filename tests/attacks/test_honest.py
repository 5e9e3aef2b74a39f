import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.attacks.honest import Clients
from tests.support import eventually_async


@asynccontextmanager
async def server(answer: str, *, answers_per_connection: int = 1000) -> AsyncIterator[int]:
    """Answer each request with its body and this head, and close after so many."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(answers_per_connection):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            body = await reader.readexactly(size)
            writer.write(f"{answer}\r\nContent-Length: {size}\r\n\r\n".encode() + body)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


async def outcomes(port: int, count: int) -> list[str]:
    clients = Clients("127.0.0.1", port, per_s=200)
    load = asyncio.create_task(clients.run())
    await eventually_async(lambda: len(clients.outcomes) >= count)
    clients.stop()
    await load
    return [one.fault for one in clients.outcomes]


async def test_requests_that_are_answered_have_no_fault() -> None:
    async with server("HTTP/1.1 200 OK") as port:
        assert set(await outcomes(port, 45)) == {""}


async def test_a_connection_that_was_closed_while_it_was_idle_is_no_failure() -> None:
    async with server("HTTP/1.1 200 OK", answers_per_connection=3) as port:
        assert set(await outcomes(port, 30)) == {""}


async def test_a_refused_request_counts_with_its_status() -> None:
    async with server("HTTP/1.1 503 Service Unavailable") as port:
        assert set(await outcomes(port, 3)) == {"503"}


async def test_a_server_that_is_gone_fails_each_request() -> None:
    async with server("HTTP/1.1 200 OK") as port:
        pass
    assert set(await outcomes(port, 3)) == {"ConnectionRefusedError"}
