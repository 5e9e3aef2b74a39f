"""Clients that are too slow or too many, on real sockets and with limits scaled down."""

import http.client
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.gateway.http.test_uvicorn_server import Broker, Served, free_ports
from tests.support import eventually
from torchrelay.shared.settings import GatewaySettings

pytestmark = pytest.mark.integration

LARGE = 3_000_000


@pytest.fixture
def config(tmp_path: Path) -> GatewaySettings:
    one, two, three = free_ports(3)
    return GatewaySettings(
        broker_address=f"ipc://{tmp_path}/broker",
        inference_address=f"http://127.0.0.1:{one}",
        management_address=f"http://127.0.0.1:{two}",
        metrics_address=f"http://127.0.0.1:{three}",
        head_timeout_s=2.0,
        client_stall_s=3.0,
        client_least_rate=10_000,
        connection_limit=32,
        unsent_limit_bytes=5 * LARGE,
    )


@pytest.fixture
def served(config: GatewaySettings, tmp_path: Path) -> Iterator[Served]:
    broker = Broker(config.broker_address)
    served = Served(config, tmp_path / "log")
    eventually(served.is_ready, within_s=20)
    yield served
    served.process.kill()
    served.process.wait(5)
    broker.stop()


def dial(served: Served, *, window_bytes: int = 0) -> socket.socket:
    """Connect; with a window the client's kernel takes little of an answer that isn't read."""
    host, _, port = served.config.inference_address.partition("://")[2].partition(":")
    client = socket.socket()
    if window_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
    client.settimeout(20)
    client.connect((host, int(port)))
    return client


def post(client: socket.socket, body: bytes, length: int | None = None) -> None:
    size = len(body) if length is None else length
    client.sendall(
        b"POST /predictions/m HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + body
    )


def answer(client: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.status, response.read()


def is_cut(client: socket.socket) -> bool:
    """Tell whether the other side has closed or reset the connection; reads nothing of what is there."""
    state = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return bool(struct.unpack("B", state)[0] != 1)  # TCP_ESTABLISHED


def test_a_head_and_a_body_that_stop_are_answered_408(served: Served) -> None:
    head, body = dial(served), dial(served)
    head.sendall(b"GET /ping HTTP/1.1\r\nX: ")
    post(body, b"x" * 100, length=1000)
    for client in (head, body):
        status, told = answer(client)
        assert (status, b"RequestTimeoutException" in told) == (408, True)
        client.close()
    assert served.predict()[0].status == 200


def test_clients_that_do_not_read_are_cut_and_one_that_reads_slowly_gets_it_all(served: Served) -> None:
    steady = dial(served, window_bytes=100_000)
    post(steady, b"y" * LARGE)
    lazy = [dial(served, window_bytes=4096) for _ in range(3)]
    for client in lazy:
        post(client, b"x" * LARGE)
    response = http.client.HTTPResponse(steady)
    response.begin()
    received = 0
    while not all(is_cut(client) for client in lazy):
        received += len(response.read(20_000))
    while piece := response.read(1_000_000):
        received += len(piece)
    assert received == LARGE
    for client in (steady, *lazy):
        client.close()


def test_answers_that_nobody_reads_have_a_bound_together(config: GatewaySettings, tmp_path: Path) -> None:
    patient = msgspec.structs.replace(config, client_stall_s=600.0)
    broker, served = Broker(config.broker_address), Served(patient, tmp_path / "log")
    eventually(served.is_ready, within_s=20)
    before = resident_bytes(served)
    lazy = [dial(served, window_bytes=4096) for _ in range(24)]
    for client in lazy:
        post(client, b"x" * LARGE)
        assert served.predict(body=b"honest")[1] == b"honest"
    eventually(lambda: sum(is_cut(client) for client in lazy) > 10)
    assert sum(not is_cut(client) for client in lazy) >= 1
    assert served.predict(body=b"z" * LARGE)[1] == b"z" * LARGE
    assert resident_bytes(served) - before < 24 * LARGE
    for client in lazy:
        client.close()
    served.process.kill()
    served.process.wait(5)
    broker.stop()


def test_idle_connections_make_place_for_who_asks_for_something(served: Served) -> None:
    idle = [dial(served) for _ in range(200)]
    kept = served.connect(served.config.inference_address)
    for _ in range(3):
        kept.request("POST", "/predictions/m", b"kept")
        assert kept.getresponse().read() == b"kept"
        idle += [dial(served) for _ in range(50)]
        assert served.predict(body=b"new")[1] == b"new"
    eventually(lambda: sum(not is_cut(client) for client in idle) <= served.config.connection_limit)
    assert open_sockets(served) <= served.config.connection_limit + 8
    for client in idle:
        client.close()


def resident_bytes(served: Served) -> int:
    return sum(process.memory_info().rss for process in psutil.Process(served.process.pid).children())


def open_sockets(served: Served) -> int:
    (process,) = psutil.Process(served.process.pid).children()
    return sum(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp"))
