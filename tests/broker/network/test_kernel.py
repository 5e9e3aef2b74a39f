"""What Linux knows of sockets and memory."""

import os
import resource
import socket
import sys
from collections.abc import Iterator

import pytest

from tests.support import eventually
from torchrelay.broker.network.connections import Kernel
from torchrelay.broker.network.kernel import Linux, raise_fd_limit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")


@pytest.fixture
def linux() -> Iterator[Linux]:
    made = Linux()
    yield made
    made.close()


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with client, server:
            yield client, server


def test_it_is_seen_what_came_and_what_nobody_has_read(
    linux: Linux, connection: tuple[socket.socket, socket.socket]
) -> None:
    client, server = connection
    client.sendall(b"x" * 100)
    eventually(lambda: linux.traffic(server.fileno()).unread == 100)  # type: ignore[union-attr]  # it is open
    traffic = linux.traffic(server.fileno())
    assert traffic is not None
    assert traffic.received == 100


def test_a_closed_fd_tells_nothing(linux: Linux) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    assert linux.identity(reader) is None
    assert linux.traffic(reader) is None


def test_a_cut_ends_the_connection_that_was_meant_and_no_other(
    linux: Linux, connection: tuple[socket.socket, socket.socket]
) -> None:
    client, server = connection
    identity = linux.identity(server.fileno())
    assert identity is not None
    linux.cut(server.fileno(), identity + 1)
    client.sendall(b"still")
    assert server.recv(5) == b"still"
    linux.cut(server.fileno(), identity)
    assert client.recv(1) == b""


def test_memory_is_that_of_this_process(linux: Linux) -> None:
    assert linux.memory_bytes() > 1 << 20


def test_the_limit_of_fds_is_raised_as_far_as_may_be() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        assert raise_fd_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_elsewhere_nothing_is_known_and_nothing_is_cut() -> None:
    other = Kernel()
    assert (other.identity(0), other.traffic(0), other.memory_bytes()) == (None, None, 0)


def test_a_number_that_is_another_sockets_by_now_has_no_address() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert Linux().address(one.fileno()) == ""
