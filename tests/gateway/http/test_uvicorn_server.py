"""The real thing: gunicorn, uvicorn, sockets, and a broker of the test's own behind ZeroMQ."""

import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from tests.support import eventually
from torchrelay.gateway.http import addresses
from torchrelay.shared.settings import GatewaySettings, SettingsError
from torchrelay.shared.wire import codec, messages

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]


class Broker:
    """A ROUTER that echoes jobs, but those for `silent`, which it keeps."""

    def __init__(self, address: str, epoch: int = 1) -> None:
        self.address = address
        self.epoch = epoch
        self.seen: list[messages.Message] = []
        self._is_stopping = threading.Event()
        self._context = zmq.Context()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._is_stopping.set()
        self._thread.join(5)
        self._context.term()

    def saw(self, kind: type[messages.Message]) -> list[Any]:
        return [message for message in list(self.seen) if isinstance(message, kind)]

    def jobs(self) -> list[messages.SubmitItem]:
        return [item for message in self.saw(messages.Submit) for item in message.items]

    def _serve(self) -> None:
        router = self._context.socket(zmq.ROUTER)
        router.linger = 0
        router.rcvtimeo = 50
        router.bind(self.address)
        peers: set[bytes] = set()
        while not self._is_stopping.is_set():
            try:
                peer, head, *frames = router.recv_multipart()
            except zmq.Again:
                for peer in peers:
                    router.send_multipart([peer, codec.encode(messages.Beat(), self.epoch)])
                continue
            message, epoch = codec.decode(head)
            self.seen.append(message)
            if isinstance(message, messages.HelloGateway):
                peers.add(peer)
                self._say(router, peer, self.welcome())
            elif peer not in peers or epoch != self.epoch:
                self._say(router, peer, messages.IntroduceYourself())
            elif isinstance(message, messages.Submit):
                self._echo(router, peer, message, frames)
            elif isinstance(message, messages.ReadHealth):
                self._say(router, peer, messages.HealthRead(message.ask, True))
        router.close()

    def welcome(self) -> messages.Message:
        return messages.Welcome(100, 1000)

    def _say(
        self, router: Any, peer: bytes, message: messages.Message, frames: tuple[bytes, ...] = ()
    ) -> None:
        router.send_multipart([peer, codec.encode(message, self.epoch), *frames])

    def _echo(self, router: Any, peer: bytes, submit: messages.Submit, frames: list[bytes]) -> None:
        parts = codec.split_frames([item.frames for item in submit.items], frames)
        for item, part in zip(submit.items, parts, strict=True):
            if item.model == "silent":
                continue
            request, values = codec.unpack_request(item.meta, part)
            if item.model.startswith("stream"):
                self._stream(router, peer, item, int(bytes(values[0])))
                continue
            told = json.dumps(dict(request.headers)).encode() if item.model == "headers" else bytes(values[0])
            status, _, reason = (item.version or "200").partition(" ")
            error = ("PredictionFailed", "so it is", "") if item.model == "raises" else None
            meta, body = codec.pack_response(codec.Response(int(status), reason, (), told, error))
            answered = messages.Answered((messages.AnsweredItem(item.job, meta, len(body)),))
            self._say(router, peer, answered, tuple(body))

    def _stream(self, router: Any, peer: bytes, item: messages.SubmitItem, count: int) -> None:
        """Send so many parts, and what the model's name says as the last one."""
        size = 100_000 if item.model == "stream-much" else 0
        for number in range(count):
            piece = b"piece %d\n" % number + b"x" * size
            meta, body = codec.pack_response(codec.Response(200, "", (), piece))
            part = messages.AnsweredItem(item.job, meta, len(body), False, number)
            self._say(router, peer, messages.Answered((part,)), tuple(body))
        if item.model == "stream-fail":
            refused = messages.RefusedItem(item.job, "WorkerDied", "Worker died.", "")
            self._say(router, peer, messages.Refused((refused,)))
        elif item.model == "stream":
            meta, _ = codec.pack_response(codec.Response(200, "", (), b"last"))
            self._say(
                router, peer, messages.Answered((messages.AnsweredItem(item.job, meta, 0, True, count),))
            )


class DismissingBroker(Broker):
    """Has no place for gateways."""

    def welcome(self) -> messages.Message:
        return messages.Leave("unknown protocol")


def free_ports(count: int) -> list[int]:
    """Find ports that were free just now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Served:
    """A gateway in a process of its own."""

    def __init__(self, config: GatewaySettings, log: Path, *more: str) -> None:
        self.config = config
        self.log = log
        words = [sys.executable, "-m", "tests.gateway.serve", config.to_json().decode(), *more]
        with log.open("wb") as out:
            self.process = subprocess.Popen(words, cwd=ROOT, stderr=out)

    def get(
        self,
        url: str,
        path: str,
        *,
        method: str = "GET",
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = self.connect(url)
        connection.request(method, path, body, headers or {}, encode_chunked=True)
        response = connection.getresponse()
        return response, response.read()

    def connect(self, url: str) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)

    def predict(
        self, path: str = "/predictions/m", body: Any = b"x", **kwargs: Any
    ) -> tuple[http.client.HTTPResponse, bytes]:
        return self.get(self.config.inference_address, path, method="POST", body=body, **kwargs)

    def is_ready(self) -> bool:
        try:
            return self.get(self.config.management_address, "/readyz")[0].status == 200
        except OSError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(5)


def settings(folder: Path) -> GatewaySettings:
    one, two, three = free_ports(3)
    return GatewaySettings(
        broker_address=f"ipc://{folder}/broker",
        inference_address=f"http://127.0.0.1:{one}",
        management_address=f"http://127.0.0.1:{two}",
        metrics_address=f"http://127.0.0.1:{three}",
        max_request_size=200_000,
        allowed_hosts=("x",),
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway for tests that only ask it something."""
    folder = tmp_path_factory.mktemp("served")
    config = settings(folder)
    broker = Broker(config.broker_address)
    served = Served(config, folder / "log")
    eventually(served.is_ready)
    yield served
    assert served.stop() == 0
    broker.stop()


@pytest.fixture
def config(tmp_path: Path) -> GatewaySettings:
    return settings(tmp_path)


@pytest.fixture
def broker(config: GatewaySettings) -> Iterator[Broker]:
    broker = Broker(config.broker_address)
    yield broker
    broker.stop()


@pytest.fixture
def own(config: GatewaySettings, broker: Broker, tmp_path: Path) -> Iterator[Served]:
    """A gateway of the test's own, with a broker of its own."""
    own = Served(config, tmp_path / "log")
    eventually(own.is_ready)
    yield own
    if own.process.poll() is None:
        own.stop()


def test_three_ports_answer_each_its_own_family(served: Served) -> None:
    config = served.config
    assert served.get(config.inference_address, "/ping")[1] == b'{\n  "status": "Healthy"\n}\n'
    assert served.get(config.management_address, "/ping")[0].status == 404
    assert served.get(config.metrics_address, "/api-description")[0].status == 200


def test_a_connection_is_kept_for_the_next_request_and_closed_after_an_error(served: Served) -> None:
    connection = served.connect(served.config.inference_address)
    for body in (b"one", b"x" * 100_000, b"three"):
        connection.request("POST", "/predictions/m", body)
        response = connection.getresponse()
        assert (response.status, response.read(), response.headers["connection"]) == (200, body, "keep-alive")
    connection.request("GET", "/nowhere")
    response = connection.getresponse()
    assert (response.status, response.headers["connection"]) == (404, "close")
    assert not {"server", "date"} & {name.lower() for name in response.headers}


def test_head_has_the_length_and_the_connection_goes_on(served: Served) -> None:
    connection = served.connect(served.config.inference_address)
    for _ in range(2):
        connection.request("HEAD", "/predictions/m", b"four")
        response = connection.getresponse()
        assert (response.status, response.headers["content-length"], response.read()) == (200, "4", b"")


@pytest.mark.parametrize(
    ("version", "status", "reason"),
    [("299%20Very%20Fine", 299, "Very Fine"), ("599", 599, ""), ("799", 799, ""), ("404", 404, "")],
)
def test_status_and_reason_are_the_handlers(served: Served, version: str, status: int, reason: str) -> None:
    response, body = served.predict(f"/predictions/m/{version}")
    assert (response.status, response.reason, body) == (status, reason, b"x")


@pytest.mark.parametrize(
    ("status", "reason"), [(418, "I'm a Teapot"), (599, "Server Error (599)"), (999, "Unknown Status (999)")]
)
def test_a_status_that_the_handler_raised_has_a_phrase_though_http_knows_none(
    served: Served, status: int, reason: str
) -> None:
    response, body = served.predict(f"/predictions/raises/{status}")
    assert (response.status, response.reason) == (status, reason)
    assert json.loads(body)["code"] == status


def test_header_names_reach_the_handler_as_the_client_spelled_them(served: Served) -> None:
    sent = {"X-Golden": "1", "Authorization": "Bearer k"}
    told = json.loads(served.predict("/predictions/headers", headers=sent)[1])
    assert (told["X-Golden"], told["Content-Length"], told["explain"]) == ("1", "1", "False")
    assert told["Authorization"] == "Bearer k"


def test_a_request_without_content_length_gets_one_for_the_handler(served: Served) -> None:
    told = json.loads(served.get(served.config.inference_address, "/predictions/headers")[1])
    assert told["content-length"] == "0"


def test_a_chunked_body_is_counted_while_it_is_read(served: Served) -> None:
    def chunks(count: int) -> Iterator[bytes]:
        return (b"x" * 1000 for _ in range(count))

    assert served.predict(body=chunks(200))[1] == b"x" * 200_000
    response, body = served.predict(body=chunks(201))
    assert (response.status, body, response.headers["connection"]) == (413, b"", "close")


def test_a_body_that_is_said_to_be_too_large_is_refused_at_once_and_bare(served: Served) -> None:
    response, body = served.predict(body=b"x" * 200_001)
    assert (response.status, body) == (413, b"")
    assert [name.lower() for name in response.headers] == ["content-length"]


@pytest.mark.parametrize(
    ("host", "origin"), [(b"evil.example", b""), (b"localhost", b"Origin: http://evil.example\r\n")]
)
def test_a_page_of_another_site_is_refused_and_reads_why_though_its_body_still_comes(
    served: Served, host: bytes, origin: bytes
) -> None:
    head = (
        b"POST /models?url=http://evil.example/m.mar HTTP/1.1\r\nHost: %s\r\n%sContent-Length: 300000\r\n\r\n"
    )
    name, _, port = served.config.management_address.removeprefix("http://").partition(":")
    with socket.create_connection((name, int(port)), timeout=10) as client:
        client.sendall(head % (host, origin) + b"x" * 300_000)
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, json.loads(response.read())["type"]) == (403, "ForeignPageException")
    eventually(lambda: "gateway.foreign_page" in served.log.read_text())


def test_a_gateway_may_be_asked_by_its_hosts_name(served: Served) -> None:
    headers = {"Host": f"{socket.gethostname()}:8081"}
    assert served.get(served.config.management_address, "/livez", headers=headers)[0].status == 200
    headers = {"Host": f"{socket.gethostname()}.evil.example"}
    assert served.get(served.config.management_address, "/livez", headers=headers)[0].status == 403


def test_a_client_of_http_1_0_need_not_say_whom_it_asks(served: Served) -> None:
    name, _, port = served.config.management_address.removeprefix("http://").partition(":")
    with socket.create_connection((name, int(port)), timeout=10) as client:
        client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET /ping HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n", 400),
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /ping HTTP/1.1\r\nHost: x\r\nX-Big: " + b"x" * 9000 + b"\r\n\r\n", 400),
        (b"BREW /ping HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"post /ping HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
def test_what_is_not_http_gets_our_errors_json(served: Served, raw: bytes, status: int) -> None:
    host, _, port = served.config.inference_address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(raw)
        response = http.client.HTTPResponse(client)
        response.begin()
        body = json.loads(response.read())
    assert (response.status, body["code"]) == (status, status)
    assert response.headers["x-request-id"]
    assert served.is_ready()


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    host, _, port = served.config.inference_address.removeprefix("http://").partition(":")
    request = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(request + b"1" + request + b"2" + request + b"3")
        received = b""
        while received.count(b"\r\n\r\n") < 3 or not received.endswith(b"3"):
            received += client.recv(65536)
    assert [head[-1:] for head in received.split(b"HTTP/1.1 200 OK")[1:]] == [b"1", b"2", b"3"]


def test_a_client_that_waits_for_100_continue_gets_it_at_once_and_a_whole_answer(served: Served) -> None:
    host, _, port = served.config.inference_address.removeprefix("http://").partition(":")
    head = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(head)
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"ok")
        received = b""
        while not received.endswith(b"ok"):
            received += client.recv(65536)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nx-request-id: " in received
    assert received.count(b"connection: keep-alive") == 1


@pytest.mark.parametrize("is_chunked", [True, False])
def test_bodies_that_find_no_room_together_are_read_one_after_the_other(
    config: GatewaySettings, broker: Broker, tmp_path: Path, is_chunked: bool
) -> None:
    tight = msgspec.structs.replace(config, max_request_size=10_000_000, in_flight_limit_bytes=16_000_000)
    served = Served(tight, tmp_path / "log")
    eventually(served.is_ready)
    size = 9_000_000

    def post(_: int) -> tuple[int, bool]:
        body = (b"x" * 100_000 for _ in range(size // 100_000))
        headers = {} if is_chunked else {"Content-Length": str(size)}
        response, answer = served.predict(body=body, headers=headers)
        return response.status, answer == b"x" * size

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(post, range(6))) == [(200, True)] * 6
    served.stop()


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [("/predictions/m", 200_001, 413), ("/nowhere", 2, 404), ("/ping", 2, 200), ("/%zz", 2, 400)],
)
def test_who_waits_for_100_continue_in_vain_gets_its_answer_at_once_and_the_end(
    served: Served, path: str, length: int, status: int
) -> None:
    host, _, port = served.config.inference_address.removeprefix("http://").partition(":")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(head.encode())
        response = http.client.HTTPResponse(client)
        response.begin()
        response.read()
        assert (response.status, response.headers["connection"]) == (status, "close")
        # It may send its body nevertheless: nobody takes that for a request.
        client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(65536) == b""


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/nowhere", {}, 404),
        ("/predictions/m", {}, 413),
        ("/predictions/m", {"Transfer-Encoding": "chunked"}, 413),
        ("/predictions/m", {"X-Big": "x" * 9000}, 400),
        ("/predictions/m", {"Upgrade": "h2c", "Connection": "upgrade"}, 413),
    ],
)
def test_a_client_that_reads_once_it_has_sent_all_reads_its_refusal(
    served: Served, path: str, headers: dict[str, str], status: int
) -> None:
    size = 500_000 if status == 400 else 30_000_000
    body = (b"x" * 100_000 for _ in range(size // 100_000))
    sized = headers if "Transfer-Encoding" in headers else {"Content-Length": str(size), **headers}
    response, _ = served.predict(path, body=body, headers=sized)
    assert response.status == status


def test_a_client_that_leaves_is_told_to_the_broker(own: Served, broker: Broker) -> None:
    connection = own.connect(own.config.inference_address)
    connection.request("POST", "/predictions/silent", b"x")
    eventually(broker.jobs)
    connection.close()
    eventually(lambda: broker.saw(messages.Cancel))
    assert broker.saw(messages.Cancel)[0].jobs == (broker.jobs()[0].job,)


def ask_raw(served: Served, model: str, body: bytes, version: str = "1.1") -> socket.socket:
    host, _, port = served.config.inference_address.removeprefix("http://").partition(":")
    client = socket.create_connection((host, int(port)), timeout=10)
    head = f"POST /predictions/{model} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def read_until(client: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        piece = client.recv(65536)
        if not piece:
            break
        received += piece
    return received


def test_an_answer_in_parts_is_chunked_and_the_connection_goes_on(served: Served) -> None:
    connection = served.connect(served.config.inference_address)
    for count in (2, 0, 100):
        connection.request("POST", "/predictions/stream", str(count))
        response = connection.getresponse()
        assert response.read() == b"".join(b"piece %d\n" % number for number in range(count)) + b"last"
        assert response.headers["transfer-encoding"] == ("chunked" if count else None)
        assert response.headers["connection"] == "keep-alive"


def test_parts_go_out_as_they_come(served: Served) -> None:
    with ask_raw(served, "stream-hold", b"1") as client:
        assert read_until(client, b"piece 0\n\r\n").endswith(b"\r\n\r\n8\r\npiece 0\n\r\n")


def test_for_http_1_0_the_end_of_the_connection_is_the_end_of_the_parts(served: Served) -> None:
    with ask_raw(served, "stream", b"2", version="1.0") as client:
        head, _, body = read_until(client, b"never").partition(b"\r\n\r\n")
    assert body == b"piece 0\npiece 1\nlast"
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head


def test_a_failure_after_the_first_part_closes_the_connection_in_mid_body(served: Served) -> None:
    with ask_raw(served, "stream-fail", b"1") as client:
        assert read_until(client, b"never").endswith(b"\r\n8\r\npiece 0\n\r\n")
    assert "Traceback" not in served.log.read_text()


def test_a_client_that_leaves_in_mid_stream_is_told_to_the_broker(own: Served, broker: Broker) -> None:
    with ask_raw(own, "stream-hold", b"1") as client:
        read_until(client, b"piece 0\n\r\n")
    eventually(lambda: broker.saw(messages.Cancel))
    assert broker.saw(messages.Cancel)[0].jobs == (broker.jobs()[0].job,)


def test_a_client_that_does_not_read_is_not_buffered_for_without_end(own: Served, broker: Broker) -> None:
    with ask_raw(own, "stream-much", b"400"):  # 40 MB
        eventually(lambda: broker.saw(messages.Cancel))
    assert own.predict(body=b"more")[1] == b"more"


def test_a_restart_of_the_broker_cuts_a_stream_and_never_begins_it_again(
    own: Served, broker: Broker, config: GatewaySettings
) -> None:
    with ask_raw(own, "stream-hold", b"1") as client:
        read_until(client, b"piece 0\n\r\n")
        broker.stop()
        restarted = Broker(config.broker_address, epoch=2)
        assert read_until(client, b"never") == b""
    eventually(lambda: restarted.saw(messages.GatewayBeat))
    assert restarted.jobs() == []
    restarted.stop()


def test_a_head_is_taken_in_pieces_but_not_without_end(served: Served) -> None:
    host, _, port = served.config.inference_address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        for piece in (
            b"POST /predictions/m HTTP/1.1\r\nHo",
            b"st: x\r\nContent-Length: 2\r",
            b"\n\r\no",
            b"k",
        ):
            client.sendall(piece)
        assert read_until(client, b"ok").startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET /ping HTTP/1.1\r\nX-More: ")
        with pytest.raises(ConnectionError):
            client.sendall(b"x" * 50_000_000)
    assert served.is_ready()


def test_a_request_that_waits_while_the_broker_is_restarted_is_answered_once(
    own: Served, broker: Broker, config: GatewaySettings
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(own.predict, "/predictions/silent")
        eventually(broker.jobs)
        broker.stop()
        restarted = EchoingBroker(config.broker_address, epoch=2)
        response, body = waiting.result(20)
        assert (response.status, body) == (200, b"x")
        assert len(restarted.jobs()) == 1
        assert own.predict(body=b"more")[1] == b"more"
        restarted.stop()


class EchoingBroker(Broker):
    """Answers every job."""

    def _echo(self, router: Any, peer: bytes, submit: messages.Submit, frames: list[bytes]) -> None:
        items = [messages.SubmitItem(i.job, "m", None, False, i.meta, i.frames) for i in submit.items]
        super()._echo(router, peer, messages.Submit(tuple(items)), frames)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_time_and_says_goodbye(own: Served, broker: Broker, number: int) -> None:
    idle = own.connect(own.config.inference_address)
    idle.request("GET", "/ping")
    idle.getresponse().read()
    assert own.stop(number) == 0
    eventually(lambda: broker.saw(messages.Bye))
    assert "ERROR" not in own.log.read_text()


def test_requests_that_still_wait_when_it_stops_are_answered(own: Served, broker: Broker) -> None:
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(own.predict, "/predictions/silent"),
            pool.submit(own.get, own.config.management_address, "/models/m"),
        ]
        eventually(lambda: broker.jobs() and broker.saw(messages.DescribeModel))
        assert own.stop() == 0
        answers = [one.result(10) for one in waiting]
    for response, body in answers:
        assert (response.status, json.loads(body)["type"]) == (503, "ServiceUnavailableException")
    eventually(lambda: broker.saw(messages.Cancel) and broker.saw(messages.Bye))
    assert "Traceback" not in own.log.read_text()


def test_a_process_that_dies_is_replaced(own: Served) -> None:
    (child,) = children(own.process.pid)
    os.kill(child, signal.SIGKILL)
    eventually(lambda: children(own.process.pid) not in ([], [child]))
    eventually(own.is_ready)


def test_its_processes_end_with_it_and_another_can_take_its_place(
    own: Served, config: GatewaySettings, tmp_path: Path
) -> None:
    (child,) = children(own.process.pid)
    own.process.kill()
    own.process.wait(5)
    eventually(lambda: not psutil.pid_exists(child))
    again = Served(config, tmp_path / "log-again")
    eventually(again.is_ready)
    assert again.stop() == 0


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def test_several_processes_share_the_ports(config: GatewaySettings, broker: Broker, tmp_path: Path) -> None:
    served = Served(GatewaySettings(**(as_dict(config) | {"processes": 2})), tmp_path / "log")
    eventually(lambda: len(broker.saw(messages.HelloGateway)) >= 2)
    assert len({hello.pid for hello in broker.saw(messages.HelloGateway)}) == 2
    eventually(served.is_ready)
    assert served.stop() == 0


def test_a_process_that_cannot_be_replaced_for_want_of_files_leaves_the_others_serving(
    config: GatewaySettings, broker: Broker, tmp_path: Path
) -> None:
    served = Served(GatewaySettings(**(as_dict(config) | {"processes": 2})), tmp_path / "log")
    eventually(lambda: len(broker.saw(messages.HelloGateway)) >= 2 and served.is_ready())
    first, second = children(served.process.pid)
    arbiter = psutil.Process(served.process.pid)
    before = resource.prlimit(arbiter.pid, resource.RLIMIT_NOFILE)

    def is_said_again() -> bool:
        """Whether a start has failed more than once since `first` was killed."""
        return served.log.read_text().count("gateway.process_not_started") > said + 1

    # For none at all, and then for the first few that a new process needs.
    for spare in (0, 2):
        said = served.log.read_text().count("gateway.process_not_started")
        resource.prlimit(arbiter.pid, resource.RLIMIT_NOFILE, (arbiter.num_fds() + spare, before[1]))
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
        eventually(is_said_again)
        assert served.is_ready()
    assert second in children(served.process.pid)
    resource.prlimit(arbiter.pid, resource.RLIMIT_NOFILE, before)
    eventually(lambda: len({hello.pid for hello in broker.saw(messages.HelloGateway)}) == 3)
    assert served.stop() == 0


def test_a_connection_that_a_stopping_process_has_taken_is_answered(
    config: GatewaySettings, broker: Broker, tmp_path: Path
) -> None:
    served = Served(config, tmp_path / "log", "3")
    eventually(served.is_ready)
    host, port = config.inference_address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as client:
        served.process.send_signal(signal.SIGTERM)
        eventually(lambda: refuses_connections(host, int(port)))
        client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 ")
    assert served.process.wait(20) == 0


def refuses_connections(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 20).close()
    except ConnectionRefusedError:
        return True
    return False


def test_unix_sockets_serve_too(config: GatewaySettings, broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "inference"
    served = Served(
        GatewaySettings(**(as_dict(config) | {"inference_address": f"unix:{path}"})), tmp_path / "log"
    )
    eventually(served.is_ready)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    assert served.stop() == 0
    assert not path.exists()


def test_the_access_log_is_kept_where_it_is_asked_for_and_whole_at_the_end(
    config: GatewaySettings, broker: Broker, tmp_path: Path
) -> None:
    log = tmp_path / "access_log.log"
    served = Served(GatewaySettings(**(as_dict(config) | {"access_log": str(log)})), tmp_path / "log")
    eventually(served.is_ready)
    assert served.predict("/predictions/m?a=b")[1] == b"x"
    assert served.stop() == 0
    (line,) = [line for line in log.read_text().splitlines() if "predictions" in line]
    assert re.search(r' - /127\.0\.0\.1:\d+ "POST /predictions/m\?a=b HTTP/1\.1" 200 \d+$', line)


def test_a_gateway_that_the_broker_dismisses_ends_with_1(config: GatewaySettings, tmp_path: Path) -> None:
    broker = DismissingBroker(config.broker_address)
    served = Served(config, tmp_path / "log")
    assert served.process.wait(20) == 1
    assert 'reason="unknown protocol"' in served.log.read_text()
    broker.stop()


@pytest.mark.parametrize(
    ("allowing", "said"),
    [
        ({}, "can be reached from other hosts"),
        ({"token_authorization": True}, "cannot listen there"),
        ({"insecure": True}, "cannot listen there"),
    ],
)
def test_other_hosts_may_be_served_where_keys_are_asked_for(
    config: GatewaySettings, allowing: dict[str, Any], said: str
) -> None:
    documentation_network = {"management_address": "http://192.0.2.1:8081"}
    with pytest.raises(SettingsError, match=said):
        addresses.bind_all(GatewaySettings(**(as_dict(config) | documentation_network | allowing)))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"management_address": "http://0.0.0.0:1"}, "management_address=http://0.0.0.0:1 can be reached"),
        ({"inference_address": "https://127.0.0.1:1"}, "needs certificate_file"),
        ({"inference_address": "127.0.0.1:1"}, "is no address"),
        ({"inference_address": "http://127.0.0.1:99999"}, "is no address"),
        ({"inference_address": "unix:/nowhere/at/all"}, "cannot listen there"),
    ],
)
def test_addresses_that_cannot_be_are_refused_in_one_line(
    config: GatewaySettings, tmp_path: Path, changed: dict[str, str], said: str
) -> None:
    served = Served(GatewaySettings(**(as_dict(config) | changed)), tmp_path / "log")
    assert served.process.wait(20) == 1
    (line,) = served.log.read_text().splitlines()
    assert said in line


def test_a_port_in_use_is_told_in_one_line_with_its_setting(config: GatewaySettings, tmp_path: Path) -> None:
    port = int(config.management_address.rpartition(":")[2])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        served = Served(config, tmp_path / "log")
        assert served.process.wait(20) == 1
    (line,) = served.log.read_text().splitlines()
    assert f"management_address={config.management_address}: {port} is in use" in line


def as_dict(config: GatewaySettings) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(config.to_json())
    return fields


@pytest.fixture
def lingering(config: GatewaySettings, broker: Broker, tmp_path: Path) -> Iterator[Served]:
    """A gateway that takes its time to leave."""
    lingering = Served(msgspec.structs.replace(config, leave_lead_s=600.0), tmp_path / "log")
    eventually(lingering.is_ready)
    yield lingering
    if lingering.process.poll() is None:
        lingering.stop(signal.SIGINT)


def test_a_gateway_that_is_told_to_stop_says_so_and_answers_until_its_lead_is_over(lingering: Served) -> None:
    kept = lingering.connect(lingering.config.inference_address)
    kept.request("POST", "/predictions/m", b"one")
    assert kept.getresponse().read() == b"one"
    lingering.process.send_signal(signal.SIGTERM)
    eventually(lambda: not lingering.is_ready())
    response, body = lingering.get(lingering.config.management_address, "/readyz")
    assert (response.status, "being stopped" in body.decode()) == (503, True)
    assert lingering.get(lingering.config.management_address, "/livez")[0].status == 200
    assert lingering.get(lingering.config.inference_address, "/ping")[0].status == 500
    kept.request("POST", "/predictions/m", b"two")
    for connection in (kept, lingering.connect(lingering.config.inference_address)):
        if connection is not kept:
            connection.request("POST", "/predictions/m", b"two")
        response = connection.getresponse()
        assert (response.status, response.read(), response.headers["connection"]) == (200, b"two", "close")
    lingering.process.send_signal(signal.SIGTERM)
    assert lingering.predict()[0].status == 200, "asking twice hurries nobody"
    assert lingering.stop(signal.SIGINT) == 0


def test_the_lead_ends_by_itself(config: GatewaySettings, broker: Broker, tmp_path: Path) -> None:
    served = Served(msgspec.structs.replace(config, leave_lead_s=0.3), tmp_path / "log")
    eventually(served.is_ready)
    assert served.stop() == 0
    assert "gateway.leaving" in served.log.read_text()


def test_a_gateway_process_that_stands_still_is_replaced_before_its_callers_time_out(
    config: GatewaySettings, broker: Broker, tmp_path: Path
) -> None:
    served = Served(msgspec.structs.replace(config, stuck_after_s=1), tmp_path / "log")
    eventually(served.is_ready)
    # The arbiter judges nobody before it has looked for as long itself.
    (stuck,) = psutil.Process(served.process.pid).children()
    stuck.suspend()
    eventually(lambda: not stuck.is_running() or stuck.status() == psutil.STATUS_ZOMBIE)
    eventually(served.is_ready)
    assert served.predict()[1] == b"x"
    assert "gateway.process_stuck" in served.log.read_text()
    assert served.stop() == 0
