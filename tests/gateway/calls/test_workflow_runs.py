"""Requests through workflows: what each step gets, what runs side by side, and what becomes of failures."""

import asyncio
import json
from collections.abc import Callable

import pytest

from tests.gateway.fakes import FakeLink, Worker, echo
from tests.gateway.loops import turns
from tests.gateway.workflow_links import FORK, HeldLink, described, steps
from torchrelay.gateway.calls import workflow_runs
from torchrelay.gateway.calls.workflow_runs import WorkflowRequest, answer, steps_of
from torchrelay.shared import clock, errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec

CHAIN = (("a", ("b",)), ("b", ()))


def named(link: FakeLink) -> list[tuple[str, dict[str, bytes]]]:
    """Return the jobs that were submitted: their models, and their inputs by name."""
    return [
        (item.model, {one.name: value for one, value in zip(request.inputs, values, strict=True)})
        for item, request, values in zip(link.submitted, link.requests, link.values, strict=True)
    ]


def by_content(answers: dict[str, bytes]) -> Worker:
    """Make a worker that answers an input as is said here, and any other with itself."""

    def work(request: codec.Request, values: list[bytes]) -> codec.Response:
        said = b"+".join(values)
        return codec.Response(200, "", (), answers.get(said.decode(), said))

    return work


async def started(worker: Worker = echo, *, link: type[FakeLink] = FakeLink) -> FakeLink:
    made = link(GatewaySettings(), worker=worker)
    await made.start()
    return made


def request(body: bytes = b"x", *, answer_by: float | None = None) -> WorkflowRequest:
    return WorkflowRequest("id-1", [("body", "text/plain", body)], (("a", "b"),), b"", answer_by)


def failing(times: int, error: errors.RelayError) -> tuple[Worker, Callable[[], int]]:
    """Make a worker that fails so often, and what tells how often it was asked."""
    calls: list[bytes] = []

    def work(_: codec.Request, values: list[bytes]) -> codec.Response | errors.RelayError:
        calls.append(values[0])
        return error if len(calls) <= times else codec.Response(200, "", (), b"at last")

    return work, lambda: len(calls)


async def test_a_step_gets_the_answer_of_the_one_before_and_the_requests_headers_and_id() -> None:
    link = await started(by_content({"x": b"of a", "of a": b"of b"}))
    assert await answer(link, steps(*CHAIN), request()) == b"of b"
    assert named(link) == [("w__a", {"body": b"x"}), ("w__b", {"body": b"of a"})]
    assert {(one.request_id, one.headers) for one in link.requests} == {("id-1", (("a", "b"),))}
    assert [one.inputs[0].content_type for one in link.requests] == ["text/plain", ""]


async def test_branches_run_side_by_side_and_what_joins_them_gets_both_answers_by_name() -> None:
    link = await started(link=HeldLink)
    assert isinstance(link, HeldLink)
    run = asyncio.create_task(answer(link, steps(*FORK), request()))
    await turns()
    link.let_go("w__crop")
    await turns(6)
    assert link.held.keys() == {"w__detect", "w__classify"}
    link.let_go("w__classify")
    await turns(6)
    assert link.held.keys() == {"w__detect"}
    link.let_go("w__detect")
    await turns(6)
    link.let_go("w__merge")
    assert await run == b"x"
    assert named(link)[-1] == ("w__merge", {"detect": b"x", "classify": b"x"})


async def test_several_last_steps_answer_with_an_object_of_all() -> None:
    link = await started(by_content({"x": b'{"n": 1.50}'}))
    made = await answer(link, steps(("a", ("b", "c")), ("b", ()), ("c", ())), request())
    assert json.loads(made) == {"b": {"n": 1.5}, "c": {"n": 1.5}}
    assert made.endswith(b"}\n")


@pytest.mark.parametrize("body", [b"plain", b'"\xff"', b"[" * 100_000])
async def test_of_several_last_steps_none_may_answer_with_what_is_not_json(body: bytes) -> None:
    link = await started()
    with pytest.raises(errors.WorkflowStepFailed, match="Error executing b") as failed:
        await answer(link, steps(("a", ("b", "c")), ("b", ()), ("c", ())), request(body))
    assert "step b: several steps are the last" in failed.value.details


async def test_a_step_is_tried_again_as_often_as_its_spec_says() -> None:
    worker, calls = failing(2, errors.PredictionFailed("Prediction failed", "ValueError: no"))
    link = await started(worker)
    assert await answer(link, steps(("a", ()), retries=2), request()) == b"at last"
    assert calls() == 3


async def test_a_step_that_fails_each_time_fails_the_request_with_its_name_and_its_reason() -> None:
    worker, calls = failing(9, errors.PredictionFailed("Prediction failed", "ValueError: no"))
    link = await started(worker)
    with pytest.raises(errors.WorkflowStepFailed) as failed:
        await answer(link, steps(*CHAIN, retries=1), request())
    error = failed.value
    assert (error.message, error.type, error.status) == ("Error executing a", "InternalServerException", 500)
    assert error.details == "step a: ValueError: no, after 2 tries"
    assert calls() == 2


async def test_what_ends_workers_is_not_tried_again() -> None:
    worker, calls = failing(9, errors.RequestQuarantined("Worker died.", "its like ended workers"))
    with pytest.raises(errors.WorkflowStepFailed, match="Error executing a"):
        await answer(await started(worker), steps(("a", ()), retries=5), request())
    assert calls() == 1


async def test_a_fleet_that_is_full_says_so_and_when_to_come_again() -> None:
    full = errors.ServiceUnavailable('Model "w__a" has no worker', "its queue is full", retry_after_s=7)
    worker, calls = failing(9, full)
    with pytest.raises(errors.ServiceUnavailable) as failed:
        await answer(await started(worker), steps(("a", ()), retries=5), request())
    error = failed.value
    assert (error.message, error.details) == (full.message, "step a: its queue is full")
    assert (error.retry_after_s, calls()) == (7, 1)


async def test_a_step_that_takes_too_long_is_tried_again_and_then_said_to_be_late() -> None:
    worker, calls = failing(9, errors.PredictionTimeout("No answer within the request's header"))
    link = await started(worker)
    with pytest.raises(errors.WorkflowStepFailed) as failed:
        await answer(link, steps(("a", ()), retries=1, timeout_ms=250), request())
    assert failed.value.details == "step a: no answer within its 250 ms, after 2 tries"
    assert calls() == 2
    assert all(200 <= item.left_ms <= 250 for item in link.submitted)


async def test_no_step_may_take_longer_than_the_client_waits_and_none_is_tried_again_then() -> None:
    worker, calls = failing(9, errors.PredictionTimeout("No answer within the request's header", "late"))
    link = await started(worker)
    with pytest.raises(errors.PredictionTimeout) as failed:
        await answer(link, steps(("a", ()), retries=5), request(answer_by=clock.monotonic() + 9))
    assert (failed.value.status, failed.value.details, calls()) == (504, "step a: late", 1)
    assert 8000 < link.submitted[0].left_ms <= 9000
    with pytest.raises(errors.PredictionTimeout):
        await answer(link, steps(("a", ()), retries=5), request(answer_by=clock.monotonic() - 1))


async def test_a_workflow_that_was_unregistered_meanwhile_is_said_to_be() -> None:
    worker, calls = failing(9, errors.ModelNotFound("Model not found: w__a"))
    with pytest.raises(errors.WorkflowStepFailed) as failed:
        await answer(await started(worker), steps(("a", ()), retries=5), request())
    assert failed.value.details == "step a: the workflow has been unregistered"
    assert calls() == 1


async def test_a_failed_branch_cancels_what_runs_beside_it() -> None:
    def work(_: codec.Request, values: list[bytes]) -> codec.Response | errors.RelayError:
        return errors.PredictionFailed("Prediction failed", "no") if failed else echo(_, values)

    failed = False
    link = await started(work, link=HeldLink)
    assert isinstance(link, HeldLink)
    run = asyncio.create_task(answer(link, steps(*FORK), request()))
    await turns()
    link.let_go("w__crop")
    await turns(6)
    failed = True
    beside = link.held["w__detect"][0].job
    link.let_go("w__classify")
    with pytest.raises(errors.WorkflowStepFailed, match="Error executing classify"):
        await run
    assert link.cancelled == [beside]


async def test_a_client_that_leaves_cancels_all_that_runs() -> None:
    link = await started(link=HeldLink)
    assert isinstance(link, HeldLink)
    run = asyncio.create_task(answer(link, steps(*FORK), request()))
    await turns()
    link.let_go("w__crop")
    await turns(6)
    jobs = {item.job for item, _ in link.held.values()}
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await turns()
    assert set(link.cancelled) == jobs
    assert len(jobs) == 2


async def test_an_answer_in_parts_is_handed_on_whole_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(_: codec.Request, values: list[bytes]) -> list[codec.Response | errors.RelayError]:
        return [codec.Response(200, "", (), values[0] + part) for part in (b"1", b"2")]

    link = await started(work)
    assert await answer(link, steps(*CHAIN), request()) == b"x1x21x1x22"
    monkeypatch.setattr(workflow_runs, "STREAMED_LIMIT_BYTES", 3)
    with pytest.raises(errors.WorkflowStepFailed) as failed:
        await answer(link, steps(("a", ())), request())
    assert "more than 3 bytes" in failed.value.details


async def test_steps_are_asked_of_the_broker_which_may_not_have_such_a_workflow() -> None:
    link = FakeLink(GatewaySettings(), described(*steps(*CHAIN)))
    await link.start()
    assert [step.name for step in await steps_of(link, "w")] == ["a", "b"]
    with pytest.raises(errors.WorkflowNotFound, match="Workflow not found: other"):
        await steps_of(link, "other")


async def test_who_waits_for_a_broker_that_is_away_waits_no_longer_than_it_said() -> None:
    link = FakeLink(GatewaySettings(broker_outage_limit_s=1e9), is_away=True)
    await link.start()
    with pytest.raises(errors.PredictionTimeout) as late:
        await steps_of(link, "w", clock.monotonic() + 0.01)
    assert "the broker has not told" in late.value.details


async def test_answers_that_are_kept_for_other_steps_count_until_the_request_ends() -> None:
    link = await started(link=HeldLink)
    assert isinstance(link, HeldLink)
    run = asyncio.create_task(answer(link, steps(*FORK), request(b"x" * 5000)))
    await turns()
    link.let_go("w__crop")
    await turns(6)
    link.let_go("w__detect")
    await turns(6)
    assert link.room.held_bytes >= 3 * 5000  # two answers, and the job of the other branch
    link.let_go("w__classify")
    await turns(6)
    link.let_go("w__merge")
    await run
    assert link.room.held_bytes == 0


async def test_a_gateway_that_is_full_of_kept_answers_says_so() -> None:
    def work(_: codec.Request, values: list[bytes]) -> codec.Response:
        return codec.Response(200, "", (), b"x" * 2_000_000)

    link = FakeLink(GatewaySettings(in_flight_limit_bytes=1_000_000), worker=work)
    await link.start()
    with pytest.raises(errors.ServiceUnavailable) as full:
        await answer(link, steps(*CHAIN), request())
    assert "step a: as much is in flight as in_flight_limit_bytes allows" in full.value.details
    assert link.room.held_bytes == 0
