"""Hostile archives, handlers, requests and peers: a clear error each, and others go on as before."""

import http.client
import json
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.integration.archives import HANDLERS, make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import HANG_S, eventually
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One server for all of this file: what one test does must not harm the next."""
    folder = tmp_path_factory.mktemp("bad")
    with fleet(folder, make_store(folder / "models", *HANDLERS)) as made:
        config = folder / "config.properties"
        config.write_text("max_request_size=100000\n")
        broker = f"tcp://{made.address}:7700"
        made.serve(
            "--enable-model-api",
            "--models",
            "echo.mar",
            "--ts-config",
            str(config),
            "--broker",
            broker,
            "--insecure",
        )
        eventually(lambda: made.ready("echo"))
        yield made


@pytest.fixture(autouse=True)
def others_go_on(server: Fleet) -> Iterator[None]:
    yield
    assert server.predict("echo", b"still here").content == b"still here"
    assert server.http.get(f"{server.inference}/ping").status_code == 200


# Handlers


def test_a_handler_that_raises_at_load_fails_the_registration_and_says_why(server: Fleet) -> None:
    response = server.register("raises_at_load.mar", initial_workers=1)
    assert response.status_code == 500
    body = response.json()
    assert body["message"] == "Failed to start workers for model raises_at_load version: 1.0"
    assert body["details"] == "ValueError: no weights here"
    assert server.http.get(f"{server.management}/models/raises_at_load").status_code == 404
    server.register("raises_at_load.mar", initial_workers=1, synchronous=False)
    eventually(lambda: last_error(server, "raises_at_load") == "ValueError: no weights here")
    unregister(server, "raises_at_load")


def last_error(server: Fleet, model: str) -> str:
    (entry,) = [entry for entry in server.status()["models"] if entry["modelName"] == model]
    return str(entry["lastError"])


def unregister(server: Fleet, model: str) -> None:
    assert server.http.delete(f"{server.management}/models/{model}").status_code == 200


@pytest.mark.parametrize(
    ("model", "status", "message", "details"),
    [
        ("raises", 503, "Prediction failed", "KeyError: 'pixel'"),
        ("wrong_rows", 503, "number of batch response mismatched", "3"),
        ("unserialisable", 503, "Unsupported model output data type.", "object"),
        ("exits", 500, "Worker died.", "exited with 1"),
    ],
)
def test_a_handler_that_fails_is_answered_with_the_reason(
    server: Fleet, model: str, status: int, message: str, details: str
) -> None:
    assert server.register(f"{model}.mar", initial_workers=1).status_code == 200
    body = server.predict(model).json()
    assert (body["code"], body["type"], body["message"]) == (status, "InternalServerException", message)
    assert details in body["details"]
    unregister(server, model)


def test_a_worker_that_is_killed_by_its_request_is_tried_once_more_and_then_answered(server: Fleet) -> None:
    server.register("kills_itself.mar", initial_workers=1)
    body = server.predict("kills_itself").json()
    assert body["message"] == "Worker died."
    assert "signal 9" in body["details"]
    assert "2 tries" in body["details"]
    eventually(lambda: "signal 9" in last_error(server, "kills_itself"))
    unregister(server, "kills_itself")


def test_a_handler_that_never_returns_is_ended_by_response_timeout(server: Fleet) -> None:
    server.register("never_returns.mar", initial_workers=1, response_timeout=2)
    body = server.predict("never_returns").json()
    assert (body["code"], body["message"]) == (500, "Worker died.")
    assert "response_timeout of 2 s" in body["details"]
    unregister(server, "never_returns")


# Archives


def write_zip(path: Path, entries: dict[str, bytes], manifest: object = None) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if manifest is not None:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        for name, content in entries.items():
            archive.writestr(name, content)
    return path.name


def manifest(handler: str) -> dict[str, object]:
    return {"runtime": "python", "model": {"modelName": "odd", "handler": handler, "modelVersion": "1.0"}}


def test_archives_that_are_none_are_refused(server: Fleet) -> None:
    assert server.store is not None
    (server.store / "junk.mar").write_bytes(b"junk")
    response = server.register("junk.mar")
    assert (response.status_code, response.json()["message"]) == (400, "Model name is not defined.")
    (server.store / "junk.tar.gz").write_bytes(b"junk")
    assert server.register("junk.tar.gz").json()["message"] == "Failed to save model: junk.tar.gz"
    write_zip(server.store / "list.mar", {}, manifest=[1])
    assert server.register("list.mar").json()["message"] == "Failed to parse signature.json."


@pytest.mark.parametrize("name", ["../outside.py", "/tmp/outside.py", "a/../../outside.py"])
def test_paths_that_lead_out_of_an_archive_are_refused(server: Fleet, name: str) -> None:
    assert server.store is not None
    url = write_zip(server.store / "path.mar", {name: b"x"}, manifest("h.py"))
    response = server.register(url)
    assert response.status_code in (400, 500), response.text
    assert not (server.store.parent / "outside.py").exists()


def test_a_bomb_is_refused_without_being_unpacked(server: Fleet) -> None:
    assert server.store is not None
    with zipfile.ZipFile(server.store / "bomb.mar", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest("h.py")))
        with archive.open("zeros", "w", force_zip64=True) as file:
            for _ in range(1024):
                file.write(bytes(1 << 20))
    response = server.register("bomb.mar")
    assert response.status_code in (400, 500), response.text


def test_a_missing_handler_and_one_with_two_classes_say_so(server: Fleet) -> None:
    assert server.store is not None
    url = write_zip(server.store / "missing.mar", {}, manifest("nowhere.py"))
    assert "nowhere" in server.register(url, initial_workers=1).json()["details"]
    two = b"class A:\n    pass\n\nclass B:\n    pass\n"
    url = write_zip(server.store / "two.mar", {"h.py": two}, manifest("h.py"))
    assert "class" in server.register(url, initial_workers=1).json()["details"]


NAMES_OF_OURS = {
    "worker.py": b"""
from torchrelay import words
import broker

def handle(data, context):
    return None if data is None else [words.WORD + broker.WORD for _ in data]
""",
    "torchrelay/__init__.py": b"",
    "torchrelay/words.py": b"WORD = 'mine '",
    "broker.py": b"WORD = 'too'",
}


def test_archives_may_call_their_modules_what_we_call_ours(server: Fleet) -> None:
    assert server.store is not None
    url = write_zip(server.store / "names.mar", NAMES_OF_OURS, manifest("worker.py"))
    assert server.register(url, initial_workers=1).status_code == 200
    assert server.predict("odd").text == "mine too"
    unregister(server, "odd")


# Registration


NOT_FETCHED = "Failed to download archive from: {}"


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("", 400, "Parameter url is required."),
        ("?url=", 404, "empty url"),
        ("?url=../echo.mar", 404, "Relative path is not allowed in url: ../echo.mar"),
        ("?url=..%2Fecho.mar", 404, "Relative path is not allowed in url: ../echo.mar"),
        ("?url=nosuch.mar", 404, "Model not found at: nosuch.mar"),
        ("?url=ftp://host/x.mar", 404, "Model not found at: ftp://host/x.mar"),
        ("?url=http://127.0.0.1:1/x.mar", 400, NOT_FETCHED.format("http://127.0.0.1:1/x.mar")),
        ("?url=http://169.254.169.254/x.mar", 400, NOT_FETCHED.format("http://169.254.169.254/x.mar")),
        ("?url=file:///nosuch/x.mar", 400, "Failed to download archive from: file:///nosuch/x.mar"),
        ("?url=echo.mar", 409, "Model version 1.0 is already registered for model echo"),
        ("?url=echo.mar&runtime=ruby", 400, "Invalid RuntimeType value: ruby"),
    ],
)  # fmt: skip
def test_registrations_that_cannot_be_are_refused(
    server: Fleet, query: str, status: int, message: str
) -> None:
    response = server.http.post(f"{server.management}/models{query}")
    assert (response.status_code, response.json()["message"]) == (status, message)


# HTTP


def test_a_body_above_the_limit_is_413_and_one_at_the_limit_is_taken(server: Fleet) -> None:
    assert server.predict("echo", b"x" * 100_000).status_code == 200
    response = server.predict("echo", b"x" * 100_001)
    assert (response.status_code, response.content) == (413, b"")
    chunked = server.http.post(f"{server.inference}/predictions/echo", content=iter([b"x" * 60_000] * 2))
    assert (chunked.status_code, chunked.content) == (413, b"")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\nnonsense"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", b"\xff" * 1000),
        ("application/x-www-form-urlencoded", b"%zz=1"),
    ],
)
def test_a_broken_form_is_an_error_with_a_text_and_not_a_crash(
    server: Fleet, content_type: str, body: bytes
) -> None:
    response = server.http.post(
        f"{server.inference}/predictions/echo", content=body, headers={"content-type": content_type}
    )
    assert response.status_code in (200, 400, 500)
    if response.status_code != 200:
        assert response.json()["message"]


def test_a_request_that_is_no_http_is_answered_and_closed(server: Fleet) -> None:
    with socket.create_connection((server.address, 8080), timeout=5) as raw:
        raw.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        answer = b""
        while part := raw.recv(1000):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400")


def test_a_client_that_leaves_takes_its_job_out_of_the_queue(server: Fleet) -> None:
    server.register("teller.mar", initial_workers=1)
    connections = []
    for seconds in ("10", "0", "0"):
        connection = http.client.HTTPConnection(server.address, 8080)
        connection.request("POST", "/predictions/teller", b"x", {"x-take-s": seconds})
        connections.append(connection)
        eventually(lambda: sum(w["jobsRunning"] for w in server.workers("teller")) >= 1)
    eventually(lambda: queue_depth(server, "teller") == 2)
    connections[1].close()
    connections[2].close()
    eventually(lambda: queue_depth(server, "teller") == 0)
    assert sum(w["jobsRunning"] for w in server.workers("teller")) == 1, "the queue has been worked off"
    assert connections[0].getresponse().status == 200
    connections[0].close()
    unregister(server, "teller")


def queue_depth(server: Fleet, model: str) -> int:
    (entry,) = [entry for entry in server.status()["models"] if entry["modelName"] == model]
    return int(entry["queueDepth"])


# The wire


@pytest.fixture
def stranger(server: Fleet) -> Iterator["zmq.Socket[bytes]"]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.setsockopt(zmq.LINGER, 0)
        peer.setsockopt(zmq.RCVTIMEO, int(HANG_S * 1000))
        peer.connect(f"tcp://{server.address}:7700")
        yield peer


def hear(peer: "zmq.Socket[bytes]") -> m.Message:
    """Receive the next message that isn't a beat."""
    while True:
        message, _ = codec.decode(peer.recv_multipart()[0])
        if not isinstance(message, m.Beat):
            return message


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\x00" * 100],
        [codec.PREFIX.pack(9, 1, 0, 0)],
        [codec.PREFIX.pack(1, 255, 0, 0) + b"\x90"],
        [codec.PREFIX.pack(1, 22, 0, 0) + b"\xdd\xff\xff\xff\xff"],
        [b"", b"", b"more", b"frames"],
    ],
)
def test_garbage_on_the_wire_is_answered_and_changes_nothing(
    stranger: "zmq.Socket[bytes]", frames: list[bytes]
) -> None:
    stranger.send_multipart(frames)
    assert isinstance(hear(stranger), m.Misunderstood)


def test_a_forged_result_of_a_peer_that_is_no_worker_is_refused(stranger: "zmq.Socket[bytes]") -> None:
    stranger.send(codec.encode(m.HelloGateway(m.PROTOCOL_VERSION, "forger", 1), 0))
    _, epoch = codec.decode(stranger.recv())
    stranger.send(codec.encode(m.Completed(1, 1, (m.CompletedItem(200, b"forged"),)), epoch))
    refusal = hear(stranger)
    assert isinstance(refusal, m.Misunderstood)
    assert "not for a gateway" in refusal.reason
    stranger.send(codec.encode(m.HelloWorker(m.PROTOCOL_VERSION, 9000, "n", "echo", "1.0", "x", "cpu", 1), 0))
    assert isinstance(hear(stranger), m.Misunderstood)


def test_a_worker_of_an_archive_that_is_not_registered_is_sent_away(stranger: "zmq.Socket[bytes]") -> None:
    stranger.send(
        codec.encode(m.HelloWorker(m.PROTOCOL_VERSION, 1, "n", "echo", "1.0", "forged", "cpu", 1), 0)
    )
    assert isinstance(hear(stranger), m.Leave)
