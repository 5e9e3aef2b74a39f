"""A TLS listener that can't take connections, on a clock of the test's own."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.gateway.loops import let_pass, on_a_loop, turns
from tests.support import eventually_async
from torchrelay.gateway.http.uvicorn_server import ACCEPT_RETRY_S, TlsListener


class Full(socket.socket):
    """A socket of a process that has no file descriptor left, for two tries."""

    tries = 0

    def accept(self) -> tuple[socket.socket, Any]:  # Any: an address, as in the base
        self.tries += 1
        if self.tries <= 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@on_a_loop
async def test_connections_that_say_nothing_and_endless_handshakes_make_place_for_others() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made = TlsListener(listening, context, asyncio.Protocol, b"no", 4)
        clients = [socket.create_connection(listening.getsockname()) for _ in range(20)]
        for client in clients:
            client.setblocking(False)
        silent, begun = clients[:10], clients[10:]
        for client in begun:
            client.sendall(b"\x16")
            await turns(5)

        def gone(some: list[socket.socket]) -> int:
            return sum(_is_closed(client) for client in some)

        await eventually_async(lambda: gone(silent) >= 6 and gone(begun) >= 6)
        assert not _is_closed(begun[-1])
        made.close()
        await made.wait_closed()
        await loop.shutdown_default_executor()
        for client in clients:
            client.close()


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@contextmanager
def listener() -> Iterator[tuple[TlsListener, Full, socket.socket]]:
    """A listener, its socket, and a client that has connected."""
    with Full() as listening, socket.socket() as client:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        client.connect(listening.getsockname())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        yield TlsListener(listening, context, asyncio.Protocol, b"no", 4), listening, client


@on_a_loop
async def test_without_file_descriptors_it_waits_before_it_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with listener() as (made, listening, client):
        await eventually_async(lambda: listening.tries == 1)
        await turns(20)
        assert (listening.tries, len(caplog.records)) == (1, 1)
        await let_pass(ACCEPT_RETRY_S)
        await eventually_async(lambda: listening.tries == 2)
        await let_pass(ACCEPT_RETRY_S)
        client.sendall(b"GET")
        client.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(client, 100) == b"no"
        made.close()
        await made.wait_closed()


@on_a_loop
async def test_one_that_is_closed_while_it_waits_tries_no_more() -> None:
    with listener() as (made, listening, _):
        await eventually_async(lambda: listening.tries == 1)
        made.close()
        await let_pass(ACCEPT_RETRY_S)
        await turns(20)
        assert listening.tries == 1
