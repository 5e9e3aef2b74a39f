"""A proxy passes everything on as it is, and hands over what passed."""

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cli.migrate.small_server import Said, Sent, SmallServer, answering
from tests.support import eventually
from torchrelay.cli.migrate import asked_server
from torchrelay.cli.migrate.answer_differences import ServerAnswer
from torchrelay.cli.migrate.recording_proxy import RecordingProxy
from torchrelay.cli.migrate.replayed_request import ReplayedRequest
from torchrelay.shared import clock

Record = tuple[ReplayedRequest, ServerAnswer | None]


@contextmanager
def proxying(
    server: SmallServer, body_limit_bytes: int = 1 << 20
) -> Iterator[tuple[RecordingProxy, list[Record]]]:
    records: list[Record] = []
    with asked_server.asking(server.url, server.url, None, timeout_s=5.0, body_limit_mib=1) as old:
        proxy = RecordingProxy(
            ("127.0.0.1", 0), old, lambda request, answer: records.append((request, answer)),
            clock=clock.monotonic, body_limit_bytes=body_limit_bytes,
        )  # fmt: skip
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        server.sent.clear()  # whether it is there has been asked
        try:
            yield proxy, records
        finally:
            proxy.shutdown()
            proxy.server_close()
            thread.join()


@contextmanager
def connected(proxy: RecordingProxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.server_port, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def echo(sent: Sent) -> Said:
    return Said(201, sent.body, {"x-path": sent.path, "content-type": "text/x"})


def test_requests_and_answers_pass_as_they_are_and_are_recorded() -> None:
    with answering(echo) as old, proxying(old) as (proxy, records), connected(proxy) as client:
        for method in ("POST", "PATCH"):  # two on one connection
            client.request(method, "/predictions/m?a=%zz", b"body", {"X-Own": "1"})
            answer = client.getresponse()
            assert (answer.status, answer.read(), answer.getheader("x-path")) == (
                201,
                b"body",
                "/predictions/m?a=%zz",
            )
        assert old.sent[0].headers["x-own"] == "1"
        assert old.sent[0].headers["host"] == f"127.0.0.1:{old.server_port}"
        eventually(lambda: len(records) == 2, within_s=10)
    request, said = records[0]
    assert (request.method, request.path, request.body, request.api) == (
        "POST",
        "/predictions/m?a=%zz",
        b"body",
        "inference",
    )
    assert said is not None
    assert (said.status, said.body) == (201, b"body")


def test_bytes_of_a_path_that_are_no_text_arrive_escaped() -> None:
    with answering(echo) as old, proxying(old) as (proxy, _):
        with socket.create_connection(("127.0.0.1", proxy.server_port), timeout=10) as client:
            client.sendall(b"GET /a\xff\xc3\xa9 HTTP/1.0\r\n\r\n")
            while client.recv(1000):
                pass
        assert [sent.path for sent in old.sent] == ["/a%FF%C3%A9"]


def test_a_chunked_request_arrives_whole() -> None:
    with answering(echo) as old, proxying(old) as (proxy, records), connected(proxy) as client:
        client.request(
            "POST", "/x", iter([b"ab", b"c"]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
        )
        assert client.getresponse().read() == b"abc"
        eventually(lambda: [request.body for request, _ in records] == [b"abc"], within_s=10)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_stream_is_passed_on_part_by_part(version: str) -> None:
    go_on = threading.Event()

    class Parts(list[bytes]):
        def __iter__(self) -> Iterator[bytes]:
            yield b"first"
            assert go_on.wait(10)
            yield b"second"

    with (
        answering(lambda sent: Said(200, b"" if sent.path == "/ping" else Parts())) as old,
        proxying(old) as (proxy, _),
        socket.create_connection(("127.0.0.1", proxy.server_port), timeout=10) as client,
    ):
        client.sendall(f"GET / HTTP/{version}\r\nConnection: close\r\n\r\n".encode())
        seen = b""
        while b"first" not in seen:
            seen += client.recv(1000)
        assert b"second" not in seen
        go_on.set()
        while part := client.recv(1000):
            seen += part
    assert b"second" in seen
    assert (b"chunked" in seen) is (version == "1.1")


def test_an_answer_to_head_has_no_body_and_keeps_its_length() -> None:
    with (
        answering(lambda _: Said(200, b"12345")) as old,
        proxying(old) as (proxy, _),
        connected(proxy) as client,
    ):
        client.request("HEAD", "/")
        answer = client.getresponse()
        assert (answer.read(), answer.getheader("content-length")) == (b"", "5")
        client.request("GET", "/")
        assert client.getresponse().read() == b"12345"


def test_a_server_that_answers_nothing_is_502_and_recorded_as_no_answer() -> None:
    with answering() as old, proxying(old) as (proxy, records), connected(proxy) as client:
        old.answer = lambda _: Said(0)
        client.request("GET", "/ping")
        assert client.getresponse().status == 502
        eventually(lambda: len(records) == 1, within_s=10)
    answer = records[0][1]
    assert answer is not None
    assert "broke" in answer.failure


def test_a_body_above_the_limit_passes_and_is_not_kept() -> None:
    with answering(echo) as old, proxying(old, 10) as (proxy, records), connected(proxy) as client:
        client.request("POST", "/x", b"a" * 3_000_000)
        assert len(client.getresponse().read()) == 3_000_000
        eventually(
            lambda: [(request.body, answer) for request, answer in records] == [(b"", None)], within_s=10
        )


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc",
        b"nonsense\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_the_next_client_served(data: bytes) -> None:
    with answering(echo) as old, proxying(old) as (proxy, records):
        with socket.create_connection(("127.0.0.1", proxy.server_port), timeout=10) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1000):
                pass
        assert old.sent == []
        with connected(proxy) as next_client:
            next_client.request("POST", "/x", b"a")
            assert next_client.getresponse().read() == b"a"
        eventually(lambda: len(records) == 1, within_s=10)


def test_a_client_that_leaves_takes_nobody_along() -> None:
    with answering(lambda _: Said(200, b"a" * (8 << 20))) as old, proxying(old) as (proxy, _):
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", proxy.server_port), timeout=10) as client:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                client.recv(10)
        with connected(proxy) as next_client:
            next_client.request("GET", "/")
            assert len(next_client.getresponse().read()) == 8 << 20
