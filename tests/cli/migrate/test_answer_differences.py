"""In what two answers differ."""

import json
from collections.abc import Sequence

import pytest

from torchrelay.cli.migrate import answer_differences
from torchrelay.cli.migrate.answer_differences import Difference, ServerAnswer, Tolerance


def answer(body: bytes | object = b"", status: int = 200, **headers: str) -> ServerAnswer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return ServerAnswer(
        status=status, headers=pairs, body=content, body_bytes=len(content),
        body_sha256=answer_differences.digest(content),
    )  # fmt: skip


def places(
    old: ServerAnswer,
    new: ServerAnswer,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    fields: Sequence[str] = (),
    headers: Sequence[str] = (),
    metrics: bool = False,
) -> list[str]:
    allowed = answer_differences.tolerance(rtol, atol, fields, headers)
    found = answer_differences.differences(old, new, allowed, is_metrics=metrics)
    return [f"{one.part} {one.where}".rstrip() for one in found]


def test_equal_answers_differ_in_nothing() -> None:
    one = answer({"a": [1, "x", None]}, content_type="application/json", x_request_id="1")
    assert places(one, answer({"a": [1, "x", None]}, Content_Type="application/json", x_request_id="2")) == []


def test_status_headers_and_the_beginnings_of_bodies_are_told() -> None:
    found = answer_differences.differences(
        answer(b"error " * 100, 503, content_type="a"), answer(b"", 200, x_own="b"), Tolerance()
    )
    assert found[0] == Difference("status", "503", "200")
    assert [(one.part, one.where) for one in found[1:]] == [
        ("header", "content-type"), ("header", "x-own"), ("body", "")
    ]  # fmt: skip
    assert len(found[-1].old) < 100


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ({"a": 1}, {"a": 2}, ["body /a"]),
        ({"a": 1}, {"b": 1}, ["body /a", "body /b"]),
        ([1, 2], [1], ["body /"]),
        ([{"a/b~": [1]}], [{"a/b~": ["1"]}], ["body /0/a~1b~0/0"]),
        (1, True, ["body /"]),
        (1, None, ["body /"]),
        (float("nan"), float("nan"), []),
        (1, 1.0, []),
        (10**400, 1.5, ["body /"]),
        ("a", "b", ["body /"]),
    ],
)
def test_json_is_compared_by_structure(old: object, new: object, where: list[str]) -> None:
    assert places(answer(old), answer(new)) == where


def test_numbers_may_differ_by_what_is_allowed() -> None:
    old, new = answer({"score": 0.912345, "count": 1000}), answer({"score": 0.912346, "count": 1001})
    assert places(old, new) == ["body /score", "body /count"]
    assert places(old, new, rtol=1e-5) == ["body /count"]
    assert places(old, new, atol=2.0) == []


def test_fields_and_headers_may_be_left_out() -> None:
    old, new = answer([{"id": 1, "x": 1}, {"id": 2, "x": 1}], etag="1"), answer([{"id": 3, "x": 1}, {"x": 1}])
    assert places(old, new, fields=["/*/id"], headers=["ETag"]) == []
    assert places(old, new, fields=["/0/id"]) == ["header etag", "body /1/id"]


def test_what_differs_between_any_two_servers_is_left_out() -> None:
    worker = {
        "id": "9000",
        "pid": 1,
        "startTime": "a",
        "memoryUsage": 1,
        "gpuUsage": "N/A",
        "status": "READY",
    }
    other = {
        "id": "9001",
        "pid": 2,
        "startTime": "b",
        "memoryUsage": 2,
        "gpuUsage": "x",
        "status": "UNLOADING",
    }
    assert places(answer([{"workers": [worker]}]), answer([{"workers": [other]}])) == [
        "body /0/workers/0/status"
    ]
    assert places(answer({"code": 503}, 503), answer({"code": 503, "details": "x"}, 503)) == []


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        (b"a\nb", b"a\nc", "body line 2"),
        (b"a", b"a\nb", "body line 2"),
        (b"a\n", b"a", "body line breaks"),
        (b"\xff\0a", b"\xff\0b", "body from byte 2 on"),
        (b"\xff", b"\xff\0", "body from byte 1 on"),
        (b"[" * 100_000, b"[" * 99_999, "body line 1"),
    ],
)
def test_other_bodies_are_compared_byte_by_byte(old: bytes, new: bytes, where: str) -> None:
    assert places(answer(old), answer(new)) == [where]


def test_bodies_that_were_not_kept_are_compared_by_their_hash() -> None:
    cut = ServerAnswer(status=200, body=b"a", body_bytes=5, body_sha256="x")
    same = ServerAnswer(status=200, body=b"a", body_bytes=5, body_sha256="x")
    other = ServerAnswer(status=200, body=b"a", body_bytes=5, body_sha256="y")
    assert places(cut, same) == []
    assert places(cut, other) == ["body too large to be compared by content"]


def test_metrics_may_have_other_values_and_more_names() -> None:
    old, new = answer(b'# HELP a\na{x="1"} 1\nb 2\n'), answer(b"a 7\nc 1\n")
    assert places(old, new, metrics=True) == ["body b"]


def test_no_answer_is_a_difference_unless_neither_server_gave_one() -> None:
    failed = ServerAnswer(failure="no answer in time")
    assert places(failed, answer()) == ["answer"]
    assert places(answer(), failed) == ["answer"]
    assert places(failed, failed) == []
    nobody = ServerAnswer(failure=answer_differences.NOBODY_ANSWERS)
    assert places(nobody, nobody) == ["answer"]


def test_the_number_of_differences_is_bounded() -> None:
    found = places(answer(list(range(1000))), answer(list(range(1, 1001))))
    assert len(found) == answer_differences.DIFFERENCES_LIMIT
