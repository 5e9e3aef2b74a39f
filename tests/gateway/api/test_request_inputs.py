"""Bodies into inputs: every shape that clients send, and those that attackers send."""

import time
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.gateway.api import request_inputs
from torchrelay.gateway.api.gateway_request import COPIED_LIMIT_BYTES
from torchrelay.gateway.calls import prediction_jobs
from torchrelay.gateway.calls.prediction_jobs import Input
from torchrelay.shared import errors

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=edge"


def parts(*pieces: bytes, end: bytes = b"--edge--\r\n") -> bytes:
    return b"".join(b"--edge\r\n" + piece + b"\r\n" for piece in pieces) + end


def part(disposition: str, value: bytes, content_type: str = "") -> bytes:
    typed = f"\r\nContent-Type: {content_type}" if content_type else ""
    return f"Content-Disposition: form-data; {disposition}{typed}\r\n\r\n".encode() + value


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"a=1&a=2", [("a", "", b"2")]),
        (b"a=&b", [("a", "", b"")]),
        (b"a&b=1", [("a", "", b""), ("b", "", b"1")]),
        (b"a=%00%FF", [("a", "", b"\x00\xff")]),
        (b"", []),
        (b"hello", [("body", "", b"hello")]),
        (b'{"a": 1}', [("body", "", b'{"a": 1}')]),
        (b'{"a": "50% off"}', [("body", "", b'{"a": "50% off"}')]),
        (b"\x89PNG\r\n%zz\xff", [("body", "", b"\x89PNG\r\n%zz\xff")]),
    ],
)
def test_form_fields_by_name_and_a_body_without_any_as_it_is(body: bytes, expected: list[Input]) -> None:
    assert request_inputs.read_inputs(body, FORM) == expected
    assert request_inputs.read_inputs(body, FORM + "; charset=utf-8") == expected


@pytest.mark.parametrize("body", [b"a=%zz", b"a=%2", b"a=%", b"%z=1&b=2"])
def test_a_form_with_a_broken_escape_is_refused(body: bytes) -> None:
    with pytest.raises(errors.BadRequest):
        request_inputs.read_inputs(body, FORM)


def test_multipart_files_keep_their_type_and_fields_have_none() -> None:
    body = parts(
        part('name="first"', b"one"),
        part('name="typed"', b"{}", "application/json"),
        part('name="file"; filename="x.json"', b"{}", "application/json; charset=utf-8"),
        part('name="untyped"; filename="x"', b"\x00\xff"),
        part('name="empty"; filename="e"', b"", "text/plain"),
    )
    assert request_inputs.read_inputs(body, MULTIPART) == [
        ("first", "", b"one"),
        ("typed", "", b"{}"),
        ("file", "application/json", b"{}"),
        ("untyped", "application/octet-stream", b"\x00\xff"),
        ("empty", "text/plain", b""),
    ]


def test_of_parts_with_the_same_name_the_last_survives() -> None:
    body = parts(part('name="data"; filename="1"', b"first", "text/plain"), part('name="data"', b"second"))
    assert request_inputs.read_inputs(body, MULTIPART) == [("data", "", b"second")]


def test_a_value_may_hold_line_ends_and_dashes() -> None:
    value = b"\r\n--edg\r\n\r\n--"
    assert request_inputs.read_inputs(parts(part('name="a"', value)), MULTIPART) == [("a", "", value)]


def test_names_are_utf_8_and_may_be_quoted_with_escapes() -> None:
    body = parts(part('name="écho \\"x\\""', b"1"))
    assert request_inputs.read_inputs(body, MULTIPART) == [('écho "x"', "", b"1")]


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b"--edge--\r\n", MULTIPART, []),
        (b"--edge\r\n--edge--\r\n", MULTIPART, []),
        (b"--other\r\n\r\n--other--", MULTIPART, []),
        (b"", MULTIPART, []),
        (b"x", "multipart/form-data", [("body", "multipart/form-data", b"x")]),
        (b"x", "multipart/mixed; boundary=edge", [("body", "multipart/mixed", b"x")]),
        (b"x", "nonsense", [("body", "nonsense", b"x")]),
        (b"x", "", [("body", "", b"x")]),
    ],
)
def test_multipart_without_parts(body: bytes, content_type: str, expected: list[Input]) -> None:
    assert request_inputs.read_inputs(body, content_type) == expected


@pytest.mark.parametrize(
    "body",
    [
        parts(part('name="a"', b"1"), end=b""),
        parts(b"\r\nno headers"),
        parts(b"Content-Disposition: form-data"),
        parts(part('filename="nameless"', b"1")),
        parts(part('name=""', b"1")),
        parts(*[part(f'name="{number}"', b"") for number in range(prediction_jobs.INPUTS_LIMIT + 1)]),
        b"--edgeling\r\n" + part('name="a"', b"1") + b"\r\n--edge--",
    ],
    ids=["no end", "no headers", "no blank line", "no name", "empty name", "too many", "longer boundary"],
)
def test_broken_multipart_is_refused_in_words(body: bytes) -> None:
    with pytest.raises(errors.BadRequest):
        request_inputs.read_inputs(body, MULTIPART)


@given(
    pieces=st.lists(st.sampled_from([b"%41", b"%0d%0A", b"%3d", b"%25", b"=", b"\r\n", b" ", b"_", b"\0"]))
)
def test_escapes_are_those_of_forms_whatever_stands_beside_them(pieces: list[bytes]) -> None:
    escaped = b"".join(pieces)
    for body in (b"a=" + escaped, bytearray(b"a=" + escaped)):
        assert request_inputs.read_inputs(body, FORM) == [("a", "", unquote_to_bytes(escaped))]


def test_a_form_that_came_in_pieces_may_have_escapes() -> None:
    body = bytearray(b"a=%41&%42=" + b"+%43" * COPIED_LIMIT_BYTES)
    assert request_inputs.read_inputs(body, FORM) == [
        ("a", "", b"A"),
        ("B", "", b" C" * COPIED_LIMIT_BYTES),
    ]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('name="a;b"; filename="x"', "a;b"),
        ('filename="C:\\dir\\x;y"; NAME = plain ', "plain"),
        ('name="a"; name="b"', "b"),
        ('name="a"extra; filename=x', "a"),
        (";;name=a;;", "a"),
        ('x="; name=a', "a"),
    ],
)
def test_a_disposition_is_read_as_browsers_and_clients_write_it(header: str, name: str) -> None:
    assert [one[0] for one in request_inputs.read_inputs(parts(part(header, b"1")), MULTIPART)] == [name]


@pytest.mark.parametrize(
    "junk", [b";" * 8000, b'; x="' + b";" * 8000, b'; a=";"' * 1100, b"; " + b" " * 8000]
)
def test_the_parameters_of_a_part_take_time_by_their_length_and_not_its_square(junk: bytes) -> None:
    body = parts(*[part(f'name="{n}"' + junk.decode(), b"") for n in range(60)])
    before = time.process_time()
    for _ in range(3):
        assert len(request_inputs.read_inputs(body, MULTIPART)) == 60
        for _ in range(20):
            request_inputs.read_inputs(b"", MULTIPART + junk.decode())
    assert time.process_time() - before < 1


def test_a_large_form_of_escapes_holds_nobody_up() -> None:
    body = bytearray(b"a=" + b"%41" * 2_000_000)
    before = time.process_time()
    assert request_inputs.read_inputs(body, FORM) == [("a", "", b"A" * 2_000_000)]
    assert time.process_time() - before < 0.5


def test_the_heads_of_all_parts_together_have_a_bound() -> None:
    head = b"X: " + b"x" * (request_inputs.PART_HEAD_LIMIT_BYTES - 200) + b"\r\n"
    fitting = request_inputs.PART_HEADS_LIMIT_BYTES // request_inputs.PART_HEAD_LIMIT_BYTES
    pieces = [head + part(f'name="{number}"', b"") for number in range(fitting + 10)]
    assert len(request_inputs.read_inputs(parts(*pieces[:fitting]), MULTIPART)) == fitting
    with pytest.raises(errors.BadRequest, match="headers"):
        request_inputs.read_inputs(parts(*pieces), MULTIPART)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"x" * (prediction_jobs.NAME_LIMIT_CHARACTERS + 1) + b"=1", FORM),
        (parts(part(f'name="{"x" * (prediction_jobs.NAME_LIMIT_CHARACTERS + 1)}"', b"1")), MULTIPART),
    ],
)
def test_a_name_too_long_for_the_head_of_a_message_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(errors.BadRequest, match="name"):
        request_inputs.read_inputs(body, content_type)


@given(
    body=st.binary(max_size=200)
    | st.lists(st.sampled_from([b"--edge", b"--", b"\r\n", b"a", b":", b"%", b"=", b"&"])).map(b"".join),
    content_type=st.sampled_from([FORM, MULTIPART, 'multipart/form-data; boundary="', "x; boundary=é"])
    | st.text(max_size=40),
)
def test_no_body_makes_it_crash(body: bytes, content_type: str) -> None:
    try:
        inputs = request_inputs.read_inputs(body, content_type)
    except errors.BadRequest:
        return
    assert len({name for name, _, _ in inputs}) == len(inputs) <= prediction_jobs.INPUTS_LIMIT


def test_a_large_part_is_not_copied_out_of_its_body() -> None:
    large, small = b"x" * (COPIED_LIMIT_BYTES + 1), b"y" * COPIED_LIMIT_BYTES
    body = bytearray(parts(part('name="a"', large), part('name="b"', small)))
    (_, _, first), (_, _, second) = request_inputs.read_inputs(body, MULTIPART)
    assert isinstance(first, memoryview)
    assert (first.obj is body, bytes(first), second) == (True, large, small)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"--edge" + b"\r\n--edge" * 5000 + b"--", MULTIPART),
        (parts(*[part('name="a"', b"")] * 1001), MULTIPART),
        (
            b"--edge\r\nContent-Disposition: "
            + b"x" * request_inputs.PART_HEAD_LIMIT_BYTES
            + b"\r\n\r\n\r\n--edge--",
            MULTIPART,
        ),
        (b"&" * 5000 + b"a=1", FORM),
        (b"&" * 5000, FORM),
    ],
)
def test_a_body_of_countless_inputs_is_refused_before_they_are_taken_apart(
    body: bytes, content_type: str
) -> None:
    with pytest.raises(errors.BadRequest):
        request_inputs.read_inputs(body, content_type)
