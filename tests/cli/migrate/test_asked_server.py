"""Requests go out as they are, and answers are kept within bounds."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.migrate.small_server import Said, answering
from torchrelay.cli.faults import Fault
from torchrelay.cli.migrate import asked_server
from torchrelay.cli.migrate.answer_differences import NOBODY_ANSWERS, ServerAnswer, digest
from torchrelay.cli.migrate.replayed_request import ReplayedRequest


def ask(url: str, request: ReplayedRequest, key_file: Path | None = None) -> ServerAnswer:
    with asked_server.asking(url, url, key_file, timeout_s=5.0, body_limit_mib=1) as server:
        return server.ask(request)


def test_a_request_goes_out_as_it_is_and_nothing_is_added() -> None:
    request = ReplayedRequest(
        api="inference",
        method="POST",
        path="/predictions/../a%zz?x=é",
        headers=(("X-Own", "é"),),
        body=b"abc",
    )
    with answering(lambda _: Said(418, b"no", {"x-a": "b"})) as server:
        answer = ask(server.url, request)
    _, sent = server.sent  # the first one is whether it is there
    assert (sent.method, sent.body, sent.path) == ("POST", b"abc", "/predictions/../a%zz?x=%C3%A9")
    assert set(sent.headers) == {"host", "content-length", "x-own"}
    assert (answer.status, answer.body) == (418, b"no")
    assert ("x-a", "b") in answer.headers


def test_of_a_large_body_the_beginning_is_kept_and_all_of_it_hashed() -> None:
    body = b"0123456789abcdef" * (1 << 17)
    with answering(lambda _: Said(200, [body[: 1 << 20], body[1 << 20 :]])) as server:
        answer = ask(server.url, ReplayedRequest(api="inference", method="GET", path="/"))
    assert (len(answer.body), answer.body_bytes, answer.is_whole) == (1 << 20, 2 << 20, False)
    assert answer.body_sha256 == digest(body)


def test_keys_of_a_key_file_replace_those_of_requests(tmp_path: Path) -> None:
    keys = {name: {"key": name.lower()} for name in ("management", "inference", "API")}
    (tmp_path / "key_file.json").write_text(json.dumps(keys))
    asked = [
        ("inference", "/ping"),
        ("management", "/models"),
        ("management", "/token"),
        ("metrics", "/metrics"),
    ]
    with answering() as server:
        with asked_server.asking(
            server.url, server.url, tmp_path / "key_file.json", timeout_s=5.0, body_limit_mib=1
        ) as one:
            for api, path in asked[:3]:
                one.ask(
                    ReplayedRequest(
                        api=api, method="GET", path=path, headers=(("authorization", "Bearer old"),)  # type: ignore[arg-type]
                    )
                )  # fmt: skip
        seen = [sent.headers.get("authorization") for sent in server.sent[1:]]
    assert seen == ["Bearer inference", "Bearer management", "Bearer api"]


def test_why_there_is_no_answer_is_said() -> None:
    request = ReplayedRequest(api="inference", method="GET", path="/")
    with ExitStack() as stack:
        server = stack.enter_context(answering(lambda _: Said(0)))
        one = stack.enter_context(
            asked_server.asking(server.url, None, None, timeout_s=5.0, body_limit_mib=1)
        )
        assert "broke" in one.ask(request).failure
        server.shutdown()
        server.server_close()
        assert one.ask(request).failure == NOBODY_ANSWERS
        with pytest.raises(Fault, match="no server answers"):
            ask(server.url, request)


def test_a_key_file_that_isnt_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="nowhere"):
        ask(
            "http://127.0.0.1:1",
            ReplayedRequest(api="inference", method="GET", path="/"),
            tmp_path / "nowhere",
        )


@pytest.mark.parametrize(
    ("url", "management", "metrics"),
    [
        ("http://h:8080", "http://h:8081", "http://h:8082"),
        ("https://[::1]:443/", "https://[::1]:444", "https://[::1]:445"),
        ("http://h", "http://h", "http://h"),
        ("unix:/run/ts.sock", "unix:/run/ts.sock", "unix:/run/ts.sock"),
    ],
)
def test_addresses_follow_the_one_that_is_given(url: str, management: str, metrics: str) -> None:
    found = asked_server.addresses(url, None, None)
    assert (found["management"], found["metrics"]) == (management, metrics)
    assert asked_server.addresses(url, "http://x:1", None)["management"] == "http://x:1"


@pytest.mark.parametrize("url", ["h:8080", "ftp://h", "", "http://h:99999999"])
def test_what_is_no_address_is_a_fault(url: str) -> None:
    with pytest.raises(Fault, match="no address"):
        asked_server.addresses(url, None, None)
