"""Answers in parts: put together for the client, or cut where the rest can't come."""

import pytest

from tests.gateway.fakes import INFERENCE, FakeLink, Gateway, Said
from tests.gateway.loops import let_pass, on_a_loop
from torchrelay.gateway.http.exchange import CutShort
from torchrelay.gateway.session import Answer
from torchrelay.gateway.waiter import BACKLOG_LIMIT_PARTS
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec


def part(body: bytes, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> codec.Response:
    return codec.Response(status, "", headers, body)


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


FAULT = codec.Response(503, "", (), b"", error=("PredictionFailed", "Prediction failed", "boom"))


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


@on_a_loop
async def test_of_parts_that_wait_for_slow_clients_the_slowest_answer_is_given_up() -> None:
    link = FakeLink(GatewaySettings(unsent_limit_bytes=100_000), worker=lambda request, values: [])
    await link.start()
    stopped, slow, new = (link.submit("m", None, *codec.pack_request("", (), ())) for _ in range(3))
    for _ in range(2):
        stopped.tell(Answer(b"x" * 20_000, (), False))
        slow.tell(Answer(b"y" * 20_000, (), False))
    await let_pass(1.0)
    assert (await slow).meta == b"y" * 20_000
    new.tell(Answer(b"z" * 50_000, (), False))
    with pytest.raises(errors.ServiceUnavailable):
        await stopped
    assert link.cancelled == [stopped.number]
    assert link.unsent.held_bytes == 70_000
    assert ((await slow).meta, (await new).meta) == (b"y" * 20_000, b"z" * 50_000)
    assert link.unsent.held_bytes == 0


@on_a_loop
async def test_parts_for_a_client_that_has_left_are_kept_no_longer() -> None:
    link = FakeLink(GatewaySettings(), worker=lambda request, values: [])
    await link.start()
    job = link.submit("m", None, *codec.pack_request("", (), ()))
    job.tell(Answer(b"x" * 20_000, (), False))
    assert link.unsent.held_bytes == 20_000
    link.forget(job)
    assert link.unsent.held_bytes == 0


def test_a_sequence_is_told_to_the_broker() -> None:
    gateway = Gateway()
    gateway.ask(INFERENCE, "POST", "/predictions/m", headers={"TS_Request_Sequence_Id": "s1"})
    gateway.predict("/predictions/m", b"x")
    assert [item.sequence for item in gateway.link.submitted] == ["s1", ""]


def test_a_handler_may_set_cookies() -> None:
    gateway = Gateway(worker=lambda request, values: part(b"", 200, (("Set-Cookie", "a=b"),)))
    assert gateway.predict("/predictions/m", b"x").headers["set-cookie"] == "a=b"
