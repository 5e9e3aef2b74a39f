"""Predictions by gRPC: what a job is made of, and what becomes of its answer."""

import asyncio
from functools import partial
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.gateway.fakes import FakeLink
from tests.gateway.grpc.serving import Client, refused, served
from tests.support import eventually_async
from torchrelay.gateway.grpc.inference_service import STREAM_LIMIT_REQUESTS
from torchrelay.gateway.grpc.protos import inference_pb2 as pb
from torchrelay.shared import errors
from torchrelay.shared.wire import codec

pytestmark = pytest.mark.usefixtures("each_server")


class Silent(FakeLink):
    """A fleet that answers when the test says so."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.held: list[tuple[Any, Any]] = []

    def _answer(self, item: Any, frames: Any) -> None:
        self.held.append((item, frames))

    def release(self) -> None:
        held, self.held = self.held, []
        for item, frames in held:
            super()._answer(item, frames)


def request(body: bytes = b"x", sequence: str | None = None, model: str = "m") -> pb.PredictionsRequest:
    return pb.PredictionsRequest(model_name=model, input={"body": body}, sequence_id=sequence)


def said(body: bytes) -> codec.Response:
    return codec.Response(200, "", (), body)


async def collected(call: Any, into: list[bytes]) -> None:
    async for one in call:
        into.append(one.prediction)


async def test_a_job_has_the_inputs_in_their_order_and_nothing_of_the_metadata() -> None:
    async with served() as client:
        # Two entries, and a second one for the first key: the last survives.
        data = b"\x0a\x01m\x12\x031.0" + b"".join(
            b"\x1a" + bytes([6]) + b"\x0a\x01" + key + b"\x12\x01" + value
            for key, value in ((b"z", b"1"), (b"a", b"2"), (b"z", b"3"))
        )
        answer = await client.unary(
            "Predictions", data, pb.PredictionResponse, metadata=[("x-custom", "here"), ("explain", "True")]
        )
        assert answer.prediction == b"3"
        (job,) = client.link.submitted
        assert (job.model, job.version, job.sequence) == ("m", "1.0", "")
        (asked,) = client.link.requests
        assert [(one.name, one.content_type) for one in asked.inputs] == [("z", ""), ("a", "")]
        assert (asked.headers, client.link.values) == ((), [[b"3", b"2"]])


async def test_a_calls_deadline_is_the_jobs() -> None:
    async with served() as client:
        await client.unary("Predictions", request(), pb.PredictionResponse, timeout=20.0)
        await client.unary("Predictions", request(), pb.PredictionResponse, timeout=None)
        first, second = client.link.submitted
        assert 1000 < first.left_ms <= 21_000  # grpc rounds what it sends
        assert second.left_ms == 0


@pytest.mark.parametrize(
    ("error", "code", "description"),
    [
        (errors.ModelNotFound("Model not found: m"), "INTERNAL",
         "Model not found: m\norg.pytorch.serve.archive.model.ModelNotFoundException"),
        (errors.ServiceUnavailable("no worker", "the queue is full", retry_after_s=7), "INTERNAL",
         "no worker\nInternalServerException.()"),
        (errors.WorkerDied("Worker died."), "INTERNAL",
         "Worker died.\norg.pytorch.serve.http.InternalServerException"),
        (errors.BrokerUnreachable("The broker can't be reached."), "UNAVAILABLE",
         "The broker can't be reached.\norg.pytorch.serve.http.ServiceUnavailableException"),
        (errors.PredictionTimeout("No answer within the request's x-request-timeout-ms"), "DEADLINE_EXCEEDED",
         "No answer within the request's deadline\norg.pytorch.serve.http.RequestTimeoutException"),
    ],
)  # fmt: skip
async def test_a_refusal_has_torchserves_two_lines(
    error: errors.RelayError, code: str, description: str
) -> None:
    async with served(lambda *_: error) as client:
        assert await refused(client.predict()) == (code, description)


async def test_a_refusal_says_why_and_when_to_try_again_where_grpcs_libraries_look(each_server: str) -> None:
    busy = errors.ServiceUnavailable("no worker", "the queue is full", retry_after_s=7)
    async with served(lambda *_: busy) as client:
        call = client.predict()
        await refused(call)
        trailing = {name: value for name, value in await call.trailing_metadata()}  # noqa: C416  # no dict
        assert trailing.get("grpc-retry-pushback-ms") == ("7000" if each_server == "grpcio" else None)
        status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
        about, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(about)
        assert status.details[1].Unpack(retry)
        assert about.metadata["details"] == "the queue is full"
        assert retry.retry_delay.seconds == 7


async def test_what_is_no_request_is_refused_and_leaves_no_job() -> None:
    async with served() as client:
        for data, code in ((b"\xff\xff", "INTERNAL"), (b"", "INTERNAL")):
            assert (await refused(client.unary("Predictions", data, pb.PredictionResponse)))[0] == code
        many = {f"{number}": b"" for number in range(1001)}
        assert (await refused(client.predict(inputs=many)))[0] == "INTERNAL"
        # Fields that nobody knows are passed over.
        data = request(b"y").SerializeToString() + b"\xc2\x3e\x03abc"
        assert (await client.unary("Predictions", data, pb.PredictionResponse)).prediction == b"y"
        assert len(client.link.submitted) == 1


async def test_a_large_input_and_answer_come_whole() -> None:
    body = bytes(range(256)) * 8000
    async with served(options=[("grpc.max_receive_message_length", -1)]) as client:
        assert (await client.predict(inputs={"body": body})).prediction == body


async def test_a_request_above_the_limit_is_refused_with_both_sizes() -> None:
    async with served(max_request_size=1000) as client:
        code, description = await refused(client.predict(inputs={"body": bytes(1001)}))
        assert code == "RESOURCE_EXHAUSTED"
        assert "1000" in str(description)
        assert client.link.submitted == []
        await client.predict()


async def test_parts_come_as_the_handler_makes_them_and_one_call_takes_the_first_alone() -> None:
    async with served(lambda *_: [said(b"1"), said(b"2"), said(b"3")]) as client:
        assert [one.prediction async for one in client.stream(request())] == [b"1", b"2", b"3"]
        assert (await client.predict()).prediction == b"1"
    async with served(lambda *_: [said(b"1"), errors.PredictionFailed("Prediction failed")]) as client:
        got: list[bytes] = []
        assert (await refused(collected(client.stream(request()), got)))[1] == (
            "Prediction failed\norg.pytorch.serve.http.InternalServerException"
        )
        assert got == [b"1"]


async def test_a_call_that_is_cancelled_cancels_its_job() -> None:
    async with served(link_type=Silent) as client:
        silent = client.link
        assert isinstance(silent, Silent)
        for is_stream in (False, True):
            call = client.stream(request()) if is_stream else client.predict()
            reading = asyncio.ensure_future(call.read() if is_stream else _await(call))
            await eventually_async(lambda: silent.held)
            (item, _) = silent.held.pop()
            call.cancel()
            cancelled = silent.cancelled
            await eventually_async(partial(cancelled.__contains__, item.job))
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert silent._session.waiting == 0


async def _await(call: Any) -> Any:
    return await call


async def test_a_job_ends_with_its_calls_deadline() -> None:
    async with served(link_type=Silent) as client:
        silent = client.link
        code, _ = await refused(client.unary("Predictions", request(), pb.PredictionResponse, timeout=0.2))
        assert code == "DEADLINE_EXCEEDED"
        await eventually_async(lambda: silent._session.waiting == 0)
        assert len(silent.cancelled) == 1


async def test_requests_of_a_stream_are_answered_each_by_itself() -> None:
    def worker(asked: codec.Request, values: list[bytes]) -> codec.Response | errors.RelayError:
        return errors.PredictionFailed("Prediction failed") if values == [b"bad"] else said(values[0] * 2)

    requests = [
        request(b"a", "one"),
        request(b"bad", "one"),
        request(b"b", "two"),
        request(b"c"),
        request(model=""),
    ]
    async with served(worker) as client:
        answers = [one async for one in client.exchange(requests)]
        assert [one.prediction for one in answers[:3]] == [b"aa", b"", b"bb"]
        assert [one.sequence_id for one in answers[:3]] == ["one", "one", "two"]
        assert [one.status.code for one in answers] == [0, 14, 0, 13, 13]
        assert answers[3].status.message == "Parameter sequenceId is required."
        assert answers[4].status.message == "Parameter model_name is required."
        assert [job.sequence for job in client.link.submitted] == ["one", "one", "two"]


async def test_a_stream_has_a_bounded_number_of_requests_and_a_client_that_is_gone_leaves_none() -> None:
    async with served(link_type=Silent) as client:
        silent = client.link
        assert isinstance(silent, Silent)
        call = client.exchange()

        async def send() -> None:
            for number in range(STREAM_LIMIT_REQUESTS + 10):
                await call.write(request(b"%d" % number, f"{number}"))

        sending = asyncio.create_task(send())
        await eventually_async(lambda: len(silent.held) == STREAM_LIMIT_REQUESTS)
        await sending
        assert len(silent.held) == STREAM_LIMIT_REQUESTS
        silent.release()
        assert (await call.read()).prediction == b"0"
        await eventually_async(lambda: silent.held)
        call.cancel()
        await eventually_async(lambda: silent._session.waiting == 0)


async def test_a_stream_that_sends_what_is_no_message_ends_once_the_rest_is_answered() -> None:
    async with served() as client:
        call = client.exchange([request(b"a", "one"), b"\xff\xff"])
        got: list[bytes] = []
        assert (await refused(collected(call, got)))[0] == "INTERNAL"
        assert got == [b"a"]


async def test_ping_says_in_json_whether_all_is_well() -> None:
    async with served() as client:
        assert await _health(client) == '{\n  "status": "Healthy"\n}'
        client.link.is_leaving = True
        assert await _health(client) == '{\n  "status": "Unhealthy"\n}'


async def _health(client: Client) -> str:
    answer = await client.unary("Ping", b"", pb.TorchServeHealthResponse)
    assert isinstance(answer, pb.TorchServeHealthResponse)
    return answer.health


async def test_a_gateway_that_has_enough_says_so_by_a_code_that_is_tried_again() -> None:
    async with served(link_type=Silent, in_flight_limit_jobs=1) as client:
        first = asyncio.ensure_future(_await(client.predict()))
        silent = client.link
        assert isinstance(silent, Silent)
        await eventually_async(lambda: silent.held)
        assert (await refused(client.predict()))[0] == "UNAVAILABLE"
        silent.release()
        assert (await first).prediction == b"x"
