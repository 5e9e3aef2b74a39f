"""Which requests have the same content, and what is remembered of contents."""

import pytest

from torchrelay.broker.jobs import quarantine
from torchrelay.broker.jobs.quarantine import CONTENTS_LIMIT, Suspicion, Suspicions, fingerprint
from torchrelay.shared.wire import codec

LARGE = bytes(range(256)) * 400


def packed(body: bytes = b"x", request_id: str = "1", *, name: str = "body", content_type: str = "",
           head: tuple[bytes, ...] = (), **headers: str) -> tuple[bytes, list[codec.Payload]]:  # fmt: skip
    return codec.pack_request(
        request_id, tuple(headers.items()), [(name, content_type, body)], codec.head(head) if head else b""
    )


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("body", [b"x", LARGE])
def test_requests_differ_in_content_by_what_the_handler_is_asked_and_not_by_who_asks(
    body: bytes, *, whole: bool
) -> None:
    def of(*args: object, **kwargs: object) -> bytes:
        return fingerprint(*packed(*args, **kwargs), whole=whole)  # type: ignore[arg-type]  # packed's own

    one = of(body)
    assert one == of(body, "2") == of(body, head=(b"traceparent", b"00-1")) == of(body, authorization="x")
    others = [of(body + b"y"), of(body, name="data"), of(body, content_type="text/plain"),
              of(body, explain="True"), of(body, url_path="a/b")]  # fmt: skip
    assert one
    assert len({one, *others}) == 6


def test_of_large_inputs_samples_are_compared_and_then_all_of_it() -> None:
    other = bytearray(LARGE)
    other[100] ^= 1  # between the first samples
    assert fingerprint(*packed(LARGE)) == fingerprint(*packed(bytes(other)))
    assert fingerprint(*packed(LARGE), whole=True) != fingerprint(*packed(bytes(other)), whole=True)
    known = Suspicions()
    suspicion = known.suspect(*packed(LARGE), 0.0, None)
    assert known.find(*packed(bytes(other))) is suspicion
    known.quarantine(suspicion, *packed(LARGE), until=10.0, reason="it")
    assert known.find(*packed(bytes(other))) is None
    assert known.find(*packed(LARGE)) is suspicion


@pytest.mark.parametrize("meta", [b"", b"meta-1", packed(b"")[0]])
def test_what_has_no_content_or_cannot_be_read_is_never_quarantined(meta: bytes) -> None:
    known = Suspicions()
    suspicion = known.suspect(meta, (), 0.0, None)
    assert not suspicion.outline
    assert not known.known
    assert known.find(meta, ()) is None


def test_frames_of_a_kind_that_lends_its_bytes_count_as_those_bytes() -> None:
    meta, frames = packed(LARGE)
    assert fingerprint(meta, [memoryview(frames[0])], whole=True) == fingerprint(meta, frames, whole=True)


def test_the_oldest_of_too_many_contents_is_forgotten() -> None:
    known = Suspicions()
    for number in range(CONTENTS_LIMIT + 1):
        known.suspect(*packed(b"%d" % number), 0.0, None)
    assert len(known.known) == CONTENTS_LIMIT
    assert known.find(*packed(b"0")) is None
    assert known.find(*packed(b"1")) is not None


def test_suspects_and_quarantined_contents_are_forgotten_each_in_its_time() -> None:
    known = Suspicions()
    known.suspect(*packed(b"suspect"), 0.0, None)
    bad = known.suspect(*packed(b"bad"), 0.0, None)
    known.quarantine(bad, *packed(b"bad", "the-id"), until=300.0, reason="exited with 1")
    known.forget_old(quarantine.SUSPECTED_FOR_S)
    assert list(known.known.values()) == known.quarantined() == [bad]
    assert bad.request_id == "the-id"
    known.forget_old(300.0)
    assert not known.known


def test_a_refusal_says_why_by_which_request_and_for_how_long() -> None:
    bad = Suspicion(b"o", forgotten_at=130.0, deaths=2, request_id="the-id", reason="exited with 1")
    error = quarantine.refusal(bad, 100.0)
    assert (error.status, error.type, error.retryable) == (500, "InternalServerException", False)
    assert "30 s" in error.message
    assert error.details == "exited with 1 (request the-id)"
