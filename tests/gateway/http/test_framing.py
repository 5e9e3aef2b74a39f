"""Which framings are refused, and what the parser is told of a request with an offered upgrade."""

import pytest

from torchrelay.gateway.http import framing


@pytest.mark.parametrize(
    "headers",
    [
        [(b"transfer-encoding", b"gzip")],
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        [(b"host", b"a"), (b"host", b"b")],
    ],
)
def test_a_request_that_others_may_see_end_elsewhere_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # which one, nobody is told
        framing.check(headers, "1.1")


@pytest.mark.parametrize("version", ["0.9", "2.0", "1.2", ""])
def test_other_versions_of_http_are_refused(version: str) -> None:
    with pytest.raises(ValueError, match="no version"):
        framing.check([], version)


def test_plain_framings_pass() -> None:
    framing.check([(b"host", b"a"), (b"transfer-encoding", b"Chunked"), (b"x", b"y")], "1.1")
    framing.check([(b"content-length", b"3")], "1.0")


@pytest.mark.parametrize(("method", "told"), [("POST", b"POST"), ("CONNECT", b"POST"), ("GET", b"GET")])
def test_the_parser_hears_of_no_upgrade(method: str, told: bytes) -> None:
    scope = {
        "method": method,
        "http_version": "1.1",
        "headers": [(b"upgrade", b"h2c"), (b"content-length", b"3"), (b"x-y", b"z")],
    }
    head = framing.without_offer(scope, b"/predictions/m")
    assert head == told + b" /predictions/m HTTP/1.1\r\ncontent-length: 3\r\n\r\n"


def test_what_is_discarded_is_counted_and_ends_above_the_limit() -> None:
    closed: list[bool] = []
    discarding = framing.Discarding(lambda: closed.append(True), 10)
    discarding.feed_data(b"12345")
    discarding.feed_data(b"67890")
    assert (discarding.taken_bytes, closed) == (10, [])
    discarding.feed_data(b"!")
    assert closed == [True]


def test_trailers_are_kept_nowhere() -> None:
    trailers = framing.Trailers()
    trailers.append((b"host", b"elsewhere"))
    trailers += [(b"a", b"b")]
    assert list(trailers) == []
