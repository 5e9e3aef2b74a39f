"""TorchServe's InferenceAPIsService: messages in, jobs to the broker, its answers out."""

import asyncio
from dataclasses import dataclass
from functools import partial

from torchrelay.gateway.calls import model_calls
from torchrelay.gateway.calls.prediction_jobs import require_bounds
from torchrelay.gateway.grpc.grpc_errors import CallRefused, GrpcRefusal, refusal
from torchrelay.gateway.grpc.job_calls import part_of, submit
from torchrelay.gateway.grpc.protos.inference_pb2 import PredictionResponse, TorchServeHealthResponse
from torchrelay.gateway.grpc.protos.ordered_inputs_pb2 import OrderedPredictionsRequest
from torchrelay.gateway.grpc.served_calls import Context, Method, ServedCalls, parsed
from torchrelay.gateway.http.standard_responses import pretty
from torchrelay.gateway.session import Answer
from torchrelay.gateway.waiter import Waiter
from torchrelay.shared import errors

SERVICE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
#: Requests of one stream that wait for their answers; the next one is read when there is one less.
STREAM_LIMIT_REQUESTS = 64


@dataclass(frozen=True)
class InferenceService:
    """The methods of the service."""

    _calls: ServedCalls

    def handlers(self) -> dict[str, Method]:
        """Return what grpc calls, by the methods' names."""
        made = self._calls
        path = f"{SERVICE}/"
        return {
            "Ping": made.unary("inference", path + "Ping", self.ping),
            "Predictions": made.unary("inference", path + "Predictions", self.predict),
            "StreamPredictions": made.in_parts("inference", path + "StreamPredictions", self.stream),
            "StreamPredictions2": made.exchange("inference", path + "StreamPredictions2", self.exchange),
        }

    async def ping(self, _data: bytes, _context: Context) -> bytes:
        """Tell whether every model has the workers that it should have."""
        body = pretty(await model_calls.health(self._calls.link)).decode().removesuffix("\n")
        return TorchServeHealthResponse(health=body).SerializeToString()

    async def predict(self, data: bytes, context: Context) -> bytes:
        """Answer with the prediction; of one that comes in parts, with the first."""
        job = self._submit(parsed(OrderedPredictionsRequest, data), context)
        del data  # which may be large, and has been taken over
        body, is_final = await self._part(job)
        if not is_final:
            self._calls.link.forget(job)
        return PredictionResponse(prediction=body).SerializeToString()

    async def stream(self, data: bytes, context: Context) -> None:
        """Answer with a prediction's parts as they come."""
        job = self._submit(parsed(OrderedPredictionsRequest, data), context)
        del data
        is_final = False
        try:
            while not is_final:
                body, is_final = await self._part(job)
                await self._calls.write(context, PredictionResponse(prediction=body).SerializeToString())
        finally:
            self._calls.link.forget(job)

    async def exchange(self, context: Context) -> None:
        """Answer the requests of sequences as they come, each by itself: a failure of one ends no other."""
        stream = _Stream(self._calls, context)
        ended: CallRefused | None = None
        async with asyncio.TaskGroup() as answering:
            try:
                while (data := await self._calls.next_request(context)) is not None:
                    request = parsed(OrderedPredictionsRequest, data)
                    await stream.room.acquire()
                    job = self._begin(request, context)
                    task = answering.create_task(self._answer_one(request, job, stream))
                    if isinstance(job, Waiter):  # not by the task itself, which may end before it has begun
                        task.add_done_callback(partial(self._forget, job))
            except CallRefused as refused:
                ended = refused  # once what came before is answered
        if ended is not None:
            raise ended

    def _begin(self, request: OrderedPredictionsRequest, context: Context) -> "Waiter[Answer] | GrpcRefusal":
        """Submit a request of a stream at once: those of a sequence keep their order."""
        try:
            self._calls.check_key("inference", context)  # again: a stream may outlive its key
            if request.model_name and not request.sequence_id:
                raise errors.BadRequest("Parameter sequenceId is required.")
            return self._submit(request, context)
        except errors.RelayError as error:
            return refusal(error, "inference")
        except CallRefused as ended:
            return ended.refusal

    async def _answer_one(
        self, request: OrderedPredictionsRequest, job: "Waiter[Answer] | GrpcRefusal", stream: "_Stream"
    ) -> None:
        sequence = request.sequence_id or None
        try:
            if isinstance(job, GrpcRefusal):
                raise CallRefused(job)
            is_final = False
            while not is_final:
                body, is_final = await self._part(job)
                await stream.write(PredictionResponse(prediction=body, sequence_id=sequence))
        except errors.RelayError as error:
            status = refusal(error, "inference").status()
            await stream.write(PredictionResponse(sequence_id=sequence, status=status))
        except CallRefused as ended:
            await stream.write(PredictionResponse(sequence_id=sequence, status=ended.refusal.status()))
        finally:
            stream.room.release()

    def _forget(self, job: Waiter[Answer], _task: object) -> None:
        self._calls.link.forget(job)

    def _submit(self, request: OrderedPredictionsRequest, context: Context) -> Waiter[Answer]:
        """Have a job done. Raises BadRequest, and CallRefused for want of room."""
        if not request.model_name:
            raise errors.BadRequest("Parameter model_name is required.")
        # Of a key that comes twice the last survives, as in any map.
        inputs = [(name, "", value) for name, value in {one.key: one.value for one in request.input}.items()]
        require_bounds(inputs)
        return submit(
            self._calls.link,
            request.model_name,
            request.model_version,
            inputs,
            context,
            request.sequence_id,
        )

    async def _part(self, job: Waiter[Answer]) -> tuple[bytes, bool]:
        """Wait for the next part of an answer; return it, and whether it is the last."""
        _, body, is_final = await part_of(job)
        return bytes(body), is_final


class _Stream:
    """What goes out on a stream, from several tasks, one after the other."""

    def __init__(self, calls: ServedCalls, context: Context) -> None:
        self._calls = calls
        self.room = asyncio.Semaphore(STREAM_LIMIT_REQUESTS)
        self._context = context
        self._turn = asyncio.Lock()

    async def write(self, answer: PredictionResponse) -> None:
        """Send an answer when those before have gone."""
        async with self._turn:
            await self._calls.write(self._context, answer.SerializeToString())
