"""Answers in parts: put together for the client, or cut where the rest can't come."""

import pytest

from tests.gateway.fakes import INFERENCE, Gateway, Said
from torchrelay.gateway.exchange import CutShort
from torchrelay.gateway.link import BACKLOG_LIMIT_PARTS
from torchrelay.shared import errors, wire


def part(body: bytes, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> wire.Response:
    return wire.Response(status, "", headers, body)


def streaming(*parts: Said) -> Gateway:
    return Gateway(worker=lambda request, values: list(parts))


def test_parts_are_one_body_and_the_first_one_has_the_head() -> None:
    first = part(b"one ", 201, (("content-type", "text/event-stream"),))
    gateway = streaming(first, part(b"two ", 500, (("x-late", "1"),)), part(b""), part(b"x" * 100_000))
    answer = gateway.predict("/predictions/m", b"x")
    assert (answer.status_code, answer.content) == (201, b"one two " + b"x" * 100_000)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["ts_stream_next"] == "true"
    assert not {"content-length", "x-late"} & set(answer.headers)
    assert gateway.link.cancelled == []


def test_an_answer_of_one_part_is_an_ordinary_one() -> None:
    answer = streaming(part(b"all")).predict("/predictions/m", b"x")
    assert (answer.content, answer.headers["content-length"]) == (b"all", "3")
    assert "ts_stream_next" not in answer.headers


FAULT = wire.Response(503, "", (), b"", error=("PredictionFailed", "Prediction failed", "boom"))


@pytest.mark.parametrize("fault", [FAULT, errors.WorkerDied("Worker died.")])
def test_a_failure_before_the_first_part_is_an_ordinary_error(fault: Said) -> None:
    answer = streaming(fault).predict("/predictions/m", b"x")
    assert answer.json["type"] == "InternalServerException"


@pytest.mark.parametrize("fault", [FAULT, errors.WorkerDied("Worker died.")])
def test_a_failure_after_the_first_part_cuts_the_answer(fault: Said) -> None:
    with pytest.raises(CutShort):
        streaming(part(b"one"), fault).predict("/predictions/m", b"x")


def test_a_head_that_http_cannot_carry_is_refused_and_the_rest_cancelled() -> None:
    gateway = Gateway(worker=lambda request, values: [part(b"one", 42), part(b"two")])
    assert gateway.predict("/predictions/m", b"x").status_code == 503


def test_head_has_no_use_for_the_parts() -> None:
    answer = streaming(part(b"one"), part(b"two")).ask(INFERENCE, "HEAD", "/predictions/m")
    assert (answer.status_code, answer.content, answer.headers["ts_stream_next"]) == (200, b"", "true")


def test_parts_that_nobody_takes_are_given_up_at_a_bound() -> None:
    parts: list[Said] = [part(b"x")] * (BACKLOG_LIMIT_PARTS + 2)
    gateway = streaming(*parts)
    assert gateway.predict("/predictions/m", b"x").status_code == 503
    assert gateway.link._session.waiting == 0


def test_a_sequence_is_told_to_the_broker() -> None:
    gateway = Gateway()
    gateway.ask(INFERENCE, "POST", "/predictions/m", headers={"TS_Request_Sequence_Id": "s1"})
    gateway.predict("/predictions/m", b"x")
    assert [item.sequence for item in gateway.link.submitted] == ["s1", ""]


def test_a_handler_may_set_cookies() -> None:
    gateway = Gateway(worker=lambda request, values: part(b"", 200, (("Set-Cookie", "a=b"),)))
    assert gateway.predict("/predictions/m", b"x").headers["set-cookie"] == "a=b"
