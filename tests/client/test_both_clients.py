"""How both clients send calls and read answers, from servers that behave and from others."""

import asyncio
import inspect
import io
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
import trustme

from tests.cli import bodies
from tests.cli.fake_server import Answer, serving
from tests.client.both_clients import Both
from tests.client.scripted_server import END, RESET, SILENCE, answer, refusal, saying
from tests.support import eventually_async
from torchrelay import client as api
from torchrelay.client import NO_RETRIES, AsyncClient, Client, RelayError, Retries
from torchrelay.shared.open_inference import infer_bodies
from torchrelay.shared.open_inference.tensor_arrays import tensor_of

QUICK = Retries(pause_s=0.001)
UNAVAILABLE = refusal("503 Service Unavailable", "ServiceUnavailableException", {"retry-after": "0"})


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    for name in ("KEY", "CA", "INFERENCE", "MANAGEMENT"):
        monkeypatch.delenv(f"TORCHRELAY_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    return str(request.param)


def both(kind: str, url: str, **settings: Any) -> Both:
    return Both(kind, inference=url, management=url, **{"retries": QUICK} | settings)


# Requests and answers


def test_a_prediction_is_what_the_handler_said(kind: str) -> None:
    with serving({"POST /predictions/m/2.0": (200, {"class": "cat", "share": 0.5})}) as server:
        said = both(kind, server.url).call("predict", "m", b"\x00\xff", version="2.0", content_type="a/b")
    assert said.json() == {"class": "cat", "share": 0.5}
    assert said.json(dict[str, str | float])["share"] == 0.5
    assert (said.status, said.content_type) == (200, "application/json")
    assert server.asked[0][:4] == ("POST", "/predictions/m/2.0", b"\x00\xff", "a/b")


def test_files_and_forms_are_read_while_they_are_sent(kind: str, tmp_path: Path) -> None:
    picture = tmp_path / "kitten.png"
    picture.write_bytes(os.urandom(700_000))
    with serving({"POST /predictions/m": (200, b"ok")}) as server:
        ask = both(kind, server.url)
        ask.call("predict", "m", picture)
        with picture.open("rb") as opened:
            opened.seek(600_000)
            ask.call("predict", "m", opened)
        ask.call("predict", "m", parts={"data": picture, "threshold": "0.5"})
    whole, rest, form = server.asked
    assert (whole.body, whole.content_type) == (picture.read_bytes(), "image/png")
    assert rest.body == picture.read_bytes()[600_000:]
    assert form.content_type is not None
    assert form.content_type.startswith("multipart/form-data; boundary=")
    assert picture.read_bytes() in form.body


def test_a_pipe_is_sent_in_chunks(kind: str) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as sink:
        sink.write(b"from a pipe")
    with os.fdopen(reader, "rb") as source, saying(answer()) as server:
        both(kind, server.url).call("predict", "m", source)
    head, _, body = server.asked[0].partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower()
    assert body == b"b\r\nfrom a pipe\r\n0\r\n\r\n"


def test_json_is_sent_as_json_and_none_is_json_too(kind: str) -> None:
    with serving({"POST /predictions/m": (200, b"ok"), "POST /explanations/m": (200, b"why")}) as server:
        ask = both(kind, server.url)
        ask.call("predict", "m", json=None)
        assert ask.call("explain", "m", json={"a": [1, "ä"]}).text == "why"
    assert [asked.content_type for asked in server.asked] == ["application/json"] * 2
    assert [json.loads(asked.body) for asked in server.asked] == [None, {"a": [1, "ä"]}]


def test_arrays_go_and_come_as_binary_data(kind: str) -> None:
    doubled = infer_bodies.encode_response(
        infer_bodies.InferResponse(
            [tensor_of("y", np.arange(6, dtype=np.float32).reshape(2, 3) * 2)], model_name="m", id="7"
        ),
        infer_bodies.Wanted(by_default=True),
    )
    headers = {"inference-header-content-length": str(doubled.header_length), "x-request-id": "r-1"}
    with saying(answer(doubled.joined(), headers=headers)) as server:
        said = both(kind, server.url).call(
            "infer", "m", {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}, version="1.0", id="7"
        )
    assert said.outputs["y"].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert (said.model_name, said.id, said.request_id) == ("m", "7", "r-1")
    said.outputs["y"][0, 0] = 1  # it is the caller's own
    head, _, body = server.asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v2/models/m/versions/1.0/infer ")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"inference-header"))
    asked = infer_bodies.decode_request([body], int(length.rpartition(b" ")[2]))
    assert asked.wanted.by_default
    assert asked.inputs[0].values() == [0, 1, 2, 3, 4, 5]


def test_a_stream_is_read_part_by_part(kind: str) -> None:
    chunks = b"5\r\npart1\r\n4\r\nlast\r\n0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-request-id: r-2\r\n\r\n"
    got: list[bytes] = []
    with saying(head + chunks + END) as server:
        stream = both(kind, server.url).parts(got, "m", b"x")
    assert got == [b"part1", b"last"]
    assert (stream.status, stream.request_id) == (200, "r-2")


def test_the_server_hears_how_long_the_caller_waits(kind: str) -> None:
    with saying(answer()) as server:
        both(kind, server.url).call("predict", "m", b"x", timeout_s=5)
        both(kind, server.url, timeout_s=7).call("predict", "m", b"x")
        both(kind, server.url).call("predict", "m", b"x")
    said = [
        [int(line.rpartition(b" ")[2]) for line in asked.split(b"\r\n") if b"x-request-timeout-ms" in line]
        for asked in server.asked
    ]
    assert 4000 < said[0][0] <= 5000
    assert 6000 < said[1][0] <= 7000
    assert said[2] == []


def test_the_key_and_headers_for_the_handler_go_along(kind: str) -> None:
    with saying(answer()) as server:
        both(kind, server.url, key="secret-1").call("predict", "m", b"x", headers={"x-mine": "1"})
    assert b"authorization: Bearer secret-1\r\n" in server.asked[0]
    assert b"x-mine: 1\r\n" in server.asked[0]


@pytest.mark.usefixtures("kind")
def test_a_key_that_is_renewed_is_used_by_the_same_client(tmp_path: Path) -> None:
    def write(key: str) -> None:
        (tmp_path / "key_file.json").write_text(json.dumps({"inference": {"key": key}}))

    async def ask(url: str) -> None:
        async with AsyncClient(inference=url) as client:
            for key in ("old", "new"):
                write(key)
                await client.predict("m", b"x", headers={"Authorization": "mine"} if key == "new" else None)

    with saying(answer()) as server, Client(inference=server.url) as client:
        for key in ("old", "new"):
            write(key)
            client.predict("m", b"x")
        asyncio.run(ask(server.url))
    sent = [re.findall(rb"(?i)\r\nauthorization: ([^\r]*)", asked) for asked in server.asked]
    assert sent == [[b"Bearer old"], [b"Bearer new"], [b"Bearer old"], [b"mine"]]


def test_management_calls_read_what_the_server_says(kind: str) -> None:
    answers: dict[str, Answer] = {
        "POST /models": (200, {"status": "registered"}),
        "PUT /models/m/1.0": (202, {"status": "Processing worker updates..."}),
        "PUT /models/m/1.0/set-default": (200, {"status": "done"}),
        "DELETE /models/m": (200, {"status": "gone"}),
        "GET /models/m/all": (200, [bodies.version()]),
        "GET /fleet": (200, bodies.FLEET),
        "GET /nodes": (200, {"nodes": [bodies.member()]}),
        "GET /readyz/m": (503, {"status": "not ready", "reason": "no worker"}),
        "GET /ping": (500, {"status": "Unhealthy"}),
    }
    with serving(answers) as server:
        ask = both(kind, server.url)
        assert ask.call("register", "m.mar", initial_workers=1, wait=True).status == "registered"
        assert ask.call("scale", "m", 2, version="1.0").status == "Processing worker updates..."
        assert ask.call("set_default", "m", "1.0").status == "done"
        assert ask.call("unregister", "m").status == "gone"
        assert ask.call("describe", "m", "all") == [bodies.version()]
        assert ask.call("fleet").epoch == 4
        assert [one.name for one in ask.call("members", "node")] == ["rack3"]
        assert ask.call("ready", "m").reason == "no worker"
        assert ask.call("ping").status == "Unhealthy"
    assert server.asked[0].path == "/models?url=m.mar&initial_workers=1&synchronous=true"


def test_every_page_of_models_is_read(kind: str) -> None:
    pages: dict[str, Answer] = {
        "GET /models?next_page_token=0": (200, {"models": [_entry("a")], "nextPageToken": "1"}),
        "GET /models?next_page_token=1": (200, {"models": [_entry("b")]}),
    }
    with serving(pages) as server:
        assert [one.model_name for one in both(kind, server.url).call("models")] == ["a", "b"]


def test_pages_that_never_end_are_refused(kind: str) -> None:
    again = {"models": [_entry("a")], "nextPageToken": "0"}
    with (
        serving({"GET /models": (200, again)}) as server,
        pytest.raises(api.UnreadableAnswer, match="behind models from 0 on"),
    ):
        both(kind, server.url).call("models")


def _entry(name: str) -> dict[str, str]:
    return {"modelName": name, "modelUrl": f"{name}.mar"}


def test_a_model_is_watched_until_its_workers_are_there(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchrelay.client.management_calls.WATCH_INTERVAL_S", 0.001)
    states = [
        bodies.fleet(bodies.model(explanation="no node yet")),
        bodies.fleet(bodies.model(explanation="no node yet", queue_depth=3)),
        bodies.fleet(bodies.model(workers_ready=1)),
    ]

    class Script(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:  # Any: as dict has it
            return 200, states.pop(0)

    with serving(Script()) as server:
        seen = both(kind, server.url).call("watch", "m")
    assert [one.explanation for one in seen] == ["no node yet", ""]


def test_a_model_that_can_not_be_loaded_ends_the_watching(kind: str) -> None:
    failing = bodies.fleet(bodies.model(last_error="ValueError: no weights here"))
    with serving({"GET /fleet": (200, failing)}) as server:
        with pytest.raises(api.WorkerStartFailed, match="no weights here"):
            both(kind, server.url).call("watch", "m")
        with pytest.raises(api.ModelNotFound):
            both(kind, server.url).call("watch", "nosuch")


# Errors


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (refusal("404 Not Found", "ModelNotFoundException"), api.ModelNotFound),
        (refusal("503 x", "InternalServerException"), api.PredictionFailed),
        (refusal("500 x", "InternalServerException"), api.ServerFault),
        (refusal("504 x", "RequestTimeoutException"), api.PredictionTimeout),
        (refusal("418 x", "TeapotException"), api.ErrorStatus),
        (answer(b'{"error": "no picture"}', "400 x"), api.ErrorStatus),
        (answer(b"\xff\xfe", "502 Bad Gateway"), api.ErrorStatus),
        (answer(b"x" * 3_000_000, "500 x"), api.ErrorStatus),
    ],
)
def test_an_error_is_raised_as_what_it_is(kind: str, said: bytes, error: type[RelayError]) -> None:
    with saying(said.replace(b"\r\n\r\n", b"\r\nx-request-id: r-3\r\n\r\n", 1)) as server:
        with pytest.raises(RelayError) as raised:
            both(kind, server.url).call("predict", "m", b"x")
        got: list[bytes] = []
        with pytest.raises(error):
            both(kind, server.url).parts(got, "m", b"x")
    assert type(raised.value) is error
    assert raised.value.status == int(said.split(b" ")[1])
    assert raised.value.request_id == "r-3"
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (answer(b'{"epoch": 1', length=5000), api.ConnectionLost),
        (answer(b"<html>"), api.UnreadableAnswer),
        (answer(b"[" * 100_000), api.UnreadableAnswer),
        (answer(b'{"epoch": "one"}'), api.UnreadableAnswer),
        (answer(b"\xff\xfe"), api.UnreadableAnswer),
        (answer(b"", "302 Found", {"location": "http://169.254.169.254/"}), api.UnreadableAnswer),
        (answer(b"", "304 Not Modified"), api.UnreadableAnswer),
        (answer(b"x" * (64 * 1024 * 1024 + 1)), api.UnreadableAnswer),
        (b"SSH-2.0-OpenSSH_9.6\r\n" + END, api.ConnectionLost),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000 + b"\r\n" + END, api.ConnectionLost),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n" + END, api.ConnectionLost),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n" + END, api.ConnectionLost),
        (END, api.ConnectionLost),
        (RESET, api.ConnectionLost),
    ],
    ids=range(14),
)
def test_an_answer_that_is_none_is_a_clear_error(kind: str, said: bytes, error: type[RelayError]) -> None:
    with saying(said) as server, pytest.raises(error) as raised:
        both(kind, server.url, retries=NO_RETRIES).call("fleet")
    assert server.url in str(raised.value)
    assert len(server.asked) == 1


def test_a_prediction_has_no_more_bytes_than_the_client_allows(kind: str) -> None:
    with saying(answer(b"x" * 100)) as server:
        with pytest.raises(api.UnreadableAnswer, match="more than 99 bytes"):
            both(kind, server.url, answer_limit_bytes=99).call("predict", "m", b"x")
        assert both(kind, server.url, answer_limit_bytes=100).call("predict", "m", b"x").text == "x" * 100


@pytest.mark.parametrize("ending", [END, RESET])
def test_a_stream_that_breaks_off_says_so_behind_the_parts_that_came(kind: str, ending: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    got: list[bytes] = []
    with saying(head + b"5\r\npart1\r\n" + ending) as server, pytest.raises(api.ConnectionLost):
        both(kind, server.url).parts(got, "m", b"x")
    assert got in ([b"part1"], [])  # a reset may take what came before it
    assert got or ending is RESET
    assert len(server.asked) == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchrelay.client.attempts.GRACE_S", 0.01)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_says_nothing_is_waited_for_no_longer_than_was_said(kind: str) -> None:
    with saying(SILENCE) as server, pytest.raises(api.AnswerTimeout, match=r"in 0\.01 s"):
        both(kind, server.url).call("predict", "m", b"x", timeout_s=0.01)


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_stops_is_waited_for_no_longer_than_was_said(kind: str) -> None:
    with saying(answer(b"x", length=100, ending=SILENCE)) as server, pytest.raises(api.AnswerTimeout):
        both(kind, server.url).call("predict", "m", b"x", timeout_s=0.01)


# Trying again


def test_what_was_refused_is_sent_again_with_its_body(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x" * 300_000)
    with saying(UNAVAILABLE, UNAVAILABLE, answer(b"done")) as server:
        assert both(kind, server.url).call("predict", "m", tmp_path / "a.bin").text == "done"
    assert [asked.endswith(b"\r\n\r\n" + b"x" * 300_000) for asked in server.asked] == [True] * 3
    with saying(UNAVAILABLE, answer(b"done")) as server:
        got: list[bytes] = []
        both(kind, server.url).parts(got, "m", b"x")
    assert (got, len(server.asked)) == ([b"done"], 2)


def test_it_is_not_sent_for_ever(kind: str) -> None:
    with saying(UNAVAILABLE) as server, pytest.raises(api.ServiceUnavailable):
        both(kind, server.url).call("predict", "m", b"x")
    assert len(server.asked) == 1 + QUICK.limit


def test_what_can_not_be_read_twice_is_sent_once(kind: str) -> None:
    class Once(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with saying(UNAVAILABLE) as server, pytest.raises(api.ServiceUnavailable):
        both(kind, server.url).call("predict", "m", Once(b"x"))
    assert len(server.asked) == 1


def test_a_server_that_asks_for_more_time_than_there_is_is_not_asked_again(kind: str) -> None:
    later = refusal("503 x", "ServiceUnavailableException", {"retry-after": "19"})
    with saying(later) as server:
        with pytest.raises(api.ServiceUnavailable) as raised:
            both(kind, server.url).call("predict", "m", b"x", timeout_s=10)
        assert raised.value.retry_after_s == 19
        with pytest.raises(api.ServiceUnavailable):
            both(kind, server.url, retries=Retries(pause_limit_s=18)).call("predict", "m", b"x")
    assert len(server.asked) == 2


def test_a_lost_prediction_is_sent_again_only_where_that_is_wished(kind: str) -> None:
    with saying(RESET, answer()) as server, pytest.raises(api.ConnectionLost):
        both(kind, server.url).call("predict", "m", b"x")
    with saying(RESET, answer()) as server:
        wished = Retries(pause_s=0.001, resend_lost=True)
        assert both(kind, server.url, retries=wished).call("predict", "m", b"x").json() == {}
    with saying(RESET, answer(b'{"status": "ok"}')) as server, pytest.raises(api.ConnectionLost):
        both(kind, server.url).call("register", "m.mar")
    with saying(RESET, answer(b'{"status": "ok"}')) as server:
        assert both(kind, server.url).call("set_default", "m", "1.0").status == "ok"


# Ways in


def test_a_server_that_is_not_there_is_told_from_one_that_fails(kind: str, tmp_path: Path) -> None:
    with saying(answer()) as server:
        gone = server.url
    for url in (gone, f"unix:{tmp_path}/nobody.sock", "http://nosuch.invalid"):
        with pytest.raises(api.ServerNotReached, match="no server answers"):
            both(kind, url).call("predict", "m", b"x")
    for url in ("localhost:8080", "ftp://a", "http://a:b:c", "http://"):
        with pytest.raises(api.UnusableSetting):
            both(kind, url).call("predict", "m", b"x")


def test_a_certificate_counts_only_if_its_authority_is_trusted(kind: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serving({"POST /predictions/m": (200, b"ok")}) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        with pytest.raises(api.CertificateNotTrusted):
            both(kind, url).call("predict", "m", b"x")
        assert both(kind, url, ca_file=tmp_path / "ca.pem").call("predict", "m", b"x").text == "ok"
        trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        assert both(kind, url, tls=trusting).call("predict", "m", b"x").text == "ok"
    with pytest.raises(api.UnusableSetting, match=r"no\.pem"):
        both(kind, url, ca_file=tmp_path / "no.pem").call("predict", "m", b"x")


def test_calls_go_side_by_side() -> None:
    with serving({"POST /predictions/m": (200, b"ok")}) as server:

        async def ask() -> list[str]:
            async with AsyncClient(inference=server.url) as client:
                return [
                    one.text for one in await asyncio.gather(*(client.predict("m", b"x") for _ in range(20)))
                ]

        assert asyncio.run(ask()) == ["ok"] * 20
        texts: list[str] = []
        with Client(inference=server.url) as client:
            threads = [
                threading.Thread(target=lambda: texts.append(client.predict("m", b"x").text))
                for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert texts == ["ok"] * 8


class SlowFile(io.RawIOBase):
    """A file whose first bytes are long in coming."""

    def __init__(self) -> None:
        self.is_read = threading.Event()
        self.comes = threading.Event()

    def read(self, size: int = -1) -> bytes:
        self.is_read.set()
        self.comes.wait()
        return b""


def test_a_call_that_is_cancelled_while_a_file_is_read_ends_at_once() -> None:
    file = SlowFile()

    async def ask(url: str) -> None:
        async with AsyncClient(inference=url) as client:
            call = asyncio.create_task(client.predict("m", cast(BinaryIO, file)))
            await eventually_async(file.is_read.is_set)
            call.cancel()
            try:
                with pytest.raises(asyncio.CancelledError):
                    await call
            finally:
                file.comes.set()

    with saying(answer()) as server:
        asyncio.run(ask(server.url))


def test_importing_the_client_imports_nothing_that_takes_long() -> None:
    code = "import sys, torchrelay.client; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "asyncio", "zmq", "typer", "rich", "yaml", "falcon", "sqlalchemy"}
    assert heavy & {*ran.stdout.split()} == set()


def test_each_method_says_what_it_takes() -> None:
    for method in (Client.predict, AsyncClient.predict):
        assert (method.__name__, "timeout_s" in str(inspect.signature(method))) == ("predict", True)
        assert method.__doc__
    assert (Client.stream.__name__, "part by part" in str(Client.stream.__doc__)) == ("stream", True)
    assert [name for name in dir(Client) if name[0] != "_"] == [
        name for name in dir(AsyncClient) if name[0] != "_"
    ]
