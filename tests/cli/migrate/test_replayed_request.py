"""Requests, and their lines in a file."""

import pytest

from torchrelay.cli.migrate import replayed_request
from torchrelay.cli.migrate.replayed_request import ReplayedRequest


@pytest.mark.parametrize("body", [b"", b'{"a": 1}', b"\xff\0"])
def test_a_line_is_read_as_it_was_written_without_its_key(body: bytes) -> None:
    headers = (("X-A", "b"), ("Authorization", "Bearer secret"))
    request = ReplayedRequest(
        api="management", method="PUT", path="/models/m?min_worker=1", headers=headers, body=body
    )
    line = replayed_request.write_line(request)
    assert b"secret" not in line
    read = replayed_request.parse_line(line, "x:1")
    assert (read.api, read.method, read.path, read.body) == ("management", "PUT", request.path, body)
    assert (read.headers, read.source) == ((("X-A", "b"),), "x:1")


def test_of_a_line_method_and_path_are_enough() -> None:
    read = replayed_request.parse_line(b'{"method": "get", "path": "/models"}', "x")
    assert (read.method, read.api, read.label) == ("GET", "management", "GET /models")


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b'{"method": "GET"}', b'{"method": "GET", "path": "models"}',
     b'{"method": "GET", "path": "/ping\\r\\nX: y"}', b'{"method": "GET\\u001b[2J", "path": "/ping"}',
     b'{"method": "GET", "path": "/", "body_b64": "?"}', b'{"method": "GET", "path": "/", "nothing": 1}'],
)  # fmt: skip
def test_what_is_no_request_is_said_to_be_none(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each in words of its own
        replayed_request.parse_line(line, "x")


def test_an_unknown_path_belongs_to_its_port() -> None:
    assert replayed_request.api_of("/plugin", "8081") == "management"
    assert replayed_request.api_of("/plugin", "9999") == "inference"
    assert replayed_request.api_of("/models?limit=1", "8080") == "management"
