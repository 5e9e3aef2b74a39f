"""Bodies of requests, read by the gateway's own reader where they are forms."""

import io
import os
from pathlib import Path

import pytest

from torchrelay.client import request_bodies
from torchrelay.client.request_bodies import CHUNK_BYTES, RequestBody, of_data, of_json, of_parts
from torchrelay.gateway.api import request_inputs
from torchrelay.shared.wire import codec


def whole(body: RequestBody) -> bytes:
    return b"".join(body.chunks())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * (2 * CHUNK_BYTES + 1),
        bytearray(b"abc"),
        memoryview(b"abcdef")[::2],
        memoryview(b"abcdefgh").cast("I"),
        memoryview(b"").cast("I"),
    ],
    ids=range(6),
)
def test_bytes_go_as_they_are_in_bounded_chunks(data: bytes | bytearray | memoryview) -> None:
    body = of_data(data)
    assert whole(body) == bytes(data)
    assert body.length == len(bytes(data))
    assert all(len(chunk) <= CHUNK_BYTES for chunk in body.chunks())
    assert (body.content_type, body.can_be_sent_again, body.is_in_memory) == (None, True, True)


def test_a_file_is_sent_as_long_as_it_was_and_twice_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"x" * CHUNK_BYTES + b"y")
    body = of_data(path)
    path.open("ab").write(b"more")
    assert (whole(body), whole(body)) == (b"x" * CHUNK_BYTES + b"y",) * 2
    assert (body.length, body.content_type) == (CHUNK_BYTES + 1, "application/json")
    assert of_data(path, "a/b").content_type == "a/b"
    with pytest.raises(FileNotFoundError):
        of_data(tmp_path / "missing")


def test_an_open_file_is_sent_from_where_it_stands_and_twice_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"headbody")
    with (tmp_path / "a.bin").open("rb") as file:
        file.seek(4)
        body = of_data(file)
        assert (whole(body), whole(body), body.length) == (b"body", b"body", 4)
    assert whole(of_data(io.BytesIO(b"abc"))) == b"abc"


def test_a_pipe_has_no_length_and_is_sent_once() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as sink:
        sink.write(b"abc")
    with os.fdopen(reader, "rb") as source:
        body = of_data(source)
        assert (body.length, body.can_be_sent_again) == (None, False)
        assert whole(body) == b"abc"


@pytest.mark.parametrize("data", ["kitten.jpg", 7, {"a": 1}, None])
def test_what_is_no_bytes_is_refused_with_what_to_say_instead(data: object) -> None:
    with pytest.raises(TypeError, match=r"Path\(name\)|json=\.\.\."):
        of_data(data)  # type: ignore[arg-type]  # as a caller without a type checker


def test_a_file_of_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    with (tmp_path / "a.txt").open() as file, pytest.raises(TypeError, match="'rb'"):
        whole(of_data(file))  # type: ignore[arg-type]  # as a caller without a type checker


def test_json_says_what_it_can_and_refuses_the_rest() -> None:
    assert whole(of_json({"ä": [1, None, 0.5]})) == '{"ä":[1,null,0.5]}'.encode()
    for value in (float("nan"), {1, 2}, b"x"):
        with pytest.raises((TypeError, ValueError)):
            of_json(value)


def test_a_form_is_read_by_the_gateway_as_it_was_meant(tmp_path: Path) -> None:
    picture = tmp_path / 'kit"ten\n.png'
    picture.write_bytes(b"--\r\n\x00picture\r\n--")
    body = of_parts({"data": picture, "text": "ä", "raw": b"\r\n\x00", "buffer": io.BytesIO(b"b"), 'q"': "1"})
    sent = whole(body)
    assert body.length == len(sent)
    assert body.content_type is not None
    read = {
        name: (kind, bytes(codec.payload(value)))
        for name, kind, value in request_inputs.read_inputs(sent, body.content_type)
    }
    assert read == {
        "data": ("image/png", b"--\r\n\x00picture\r\n--"),
        "text": ("", "ä".encode()),
        "raw": ("", b"\r\n\x00"),
        "buffer": ("application/octet-stream", b"b"),
        "q%22": ("", b"1"),
    }
    assert request_bodies.of_parts({}).length
