"""A job's packed request becomes the row and the headers that a handler gets."""

import pytest

from torchrelay.shared.wire import codec
from torchrelay.worker.launcher.launcher_protocol import SequenceHeaders
from torchrelay.worker.model import inputs
from torchrelay.worker.model.inputs import Opened


def opened(*given: tuple[str, str, bytes], sequence: str = "", starts_sequence: bool = False) -> Opened:
    meta, frames = codec.pack_request("id", (("X-Own", "1"),), given)
    request, values = codec.unpack_request(meta, [bytes(frame) for frame in frames])
    return Opened(request, values, sequence, starts_sequence)


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("application/json; charset=utf-8", b"[1]", [1]),
        ("text/plain", "tëxt".encode(), "tëxt"),
        ("application/json", b"{broken", bytearray(b"{broken")),
        ("text/plain", b"\xff", bytearray(b"\xff")),
        ("Application/JSON", b"{}", bytearray(b"{}")),
        ("image/png", b"\x89", bytearray(b"\x89")),
        ("", b"{}", bytearray(b"{}")),
    ],
)
def test_an_input_is_decoded_by_its_content_type_and_stays_bytes_where_it_can_not_be(
    kind: str, value: bytes, shown: object
) -> None:
    row, types = inputs.inputs(opened(("body", kind, value)), decode_input=True)
    assert row == {"body": shown}
    assert type(row["body"]) is type(shown)
    assert types == {"body": {"content-type": kind.partition(";")[0]}}


def test_nothing_is_decoded_where_the_server_says_so() -> None:
    row, _ = inputs.inputs(opened(("body", "application/json", b"{}")), decode_input=False)
    assert row == {"body": bytearray(b"{}")}


def test_of_a_name_that_comes_twice_the_last_survives_also_from_a_frame() -> None:
    large = b"x" * (codec.INLINE_LIMIT_BYTES + 1)
    row, _ = inputs.inputs(opened(("a", "", b"first"), ("a", "", large)), decode_input=True)
    assert row == {"a": bytearray(large)}


def test_headers_are_the_clients_and_what_the_server_adds() -> None:
    found: inputs.Headers = {"body": {"content-type": ""}}
    job = opened(("body", "", b""), sequence="s1", starts_sequence=True)
    inputs.add_headers(found, job, SequenceHeaders(id="seq-id", start="seq-start"), is_describe=True)
    assert found == {
        "body": {"content-type": ""},
        "X-Own": "1",
        "describe": "True",
        "seq-id": "s1",
        "seq-start": "true",
    }
    plain: inputs.Headers = {}
    inputs.add_headers(plain, opened(("body", "", b"")), SequenceHeaders(), is_describe=False)
    assert plain == {"X-Own": "1"}
