"""Bodies into inputs: every shape that clients send, and those that attackers send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.gateway import bodies
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
def test_form_fields_by_name_and_a_body_without_any_as_it_is(
    body: bytes, expected: list[bodies.Input]
) -> None:
    assert bodies.read_inputs(body, FORM) == expected
    assert bodies.read_inputs(body, FORM + "; charset=utf-8") == expected


@pytest.mark.parametrize("body", [b"a=%zz", b"a=%2", b"a=%", b"%z=1&b=2"])
def test_a_form_with_a_broken_escape_is_refused(body: bytes) -> None:
    with pytest.raises(errors.BadRequest):
        bodies.read_inputs(body, FORM)


def test_multipart_files_keep_their_type_and_fields_have_none() -> None:
    body = parts(
        part('name="first"', b"one"),
        part('name="typed"', b"{}", "application/json"),
        part('name="file"; filename="x.json"', b"{}", "application/json; charset=utf-8"),
        part('name="untyped"; filename="x"', b"\x00\xff"),
        part('name="empty"; filename="e"', b"", "text/plain"),
    )
    assert bodies.read_inputs(body, MULTIPART) == [
        ("first", "", b"one"),
        ("typed", "", b"{}"),
        ("file", "application/json", b"{}"),
        ("untyped", "application/octet-stream", b"\x00\xff"),
        ("empty", "text/plain", b""),
    ]


def test_of_parts_with_the_same_name_the_last_survives() -> None:
    body = parts(part('name="data"; filename="1"', b"first", "text/plain"), part('name="data"', b"second"))
    assert bodies.read_inputs(body, MULTIPART) == [("data", "", b"second")]


def test_a_value_may_hold_line_ends_and_dashes() -> None:
    value = b"\r\n--edg\r\n\r\n--"
    assert bodies.read_inputs(parts(part('name="a"', value)), MULTIPART) == [("a", "", value)]


def test_names_are_utf_8_and_may_be_quoted_with_escapes() -> None:
    body = parts(part('name="écho \\"x\\""', b"1"))
    assert bodies.read_inputs(body, MULTIPART) == [('écho "x"', "", b"1")]


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
def test_multipart_without_parts(body: bytes, content_type: str, expected: list[bodies.Input]) -> None:
    assert bodies.read_inputs(body, content_type) == expected


@pytest.mark.parametrize(
    "body",
    [
        parts(part('name="a"', b"1"), end=b""),
        parts(b"\r\nno headers"),
        parts(b"Content-Disposition: form-data"),
        parts(part('filename="nameless"', b"1")),
        parts(part('name=""', b"1")),
        parts(*[part(f'name="{number}"', b"") for number in range(bodies.INPUTS_LIMIT + 1)]),
        b"--edgeling\r\n" + part('name="a"', b"1") + b"\r\n--edge--",
    ],
    ids=["no end", "no headers", "no blank line", "no name", "empty name", "too many", "longer boundary"],
)
def test_broken_multipart_is_refused_in_words(body: bytes) -> None:
    with pytest.raises(errors.BadRequest):
        bodies.read_inputs(body, MULTIPART)


@given(
    body=st.binary(max_size=200)
    | st.lists(st.sampled_from([b"--edge", b"--", b"\r\n", b"a", b":", b"%", b"=", b"&"])).map(b"".join),
    content_type=st.sampled_from([FORM, MULTIPART, 'multipart/form-data; boundary="', "x; boundary=é"])
    | st.text(max_size=40),
)
def test_no_body_makes_it_crash(body: bytes, content_type: str) -> None:
    try:
        inputs = bodies.read_inputs(body, content_type)
    except errors.BadRequest:
        return
    assert len({name for name, _, _ in inputs}) == len(inputs) <= bodies.INPUTS_LIMIT
