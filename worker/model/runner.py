"""Calls the handler: requests in, its output out, whatever it does; no I/O.

One bad item fails alone; what the handler itself gets wrong fails its whole call, as in TorchServe.
A handler that ends the process (SystemExit, os._exit) ends it: that is the node's to report.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from ts.context import Context, RequestProcessor

from torchrelay.shared import clock
from torchrelay.shared.errors import BadRequest, InternalError
from torchrelay.shared.open_inference import job_inputs
from torchrelay.shared.wire import codec
from torchrelay.worker.common.handler_errors import guarded
from torchrelay.worker.common.measuring import Measuring
from torchrelay.worker.launcher.launcher_protocol import SequenceHeaders
from torchrelay.worker.model import inputs, outputs, tensor_requests
from torchrelay.worker.model.held_leases import AssignedJob, Batch
from torchrelay.worker.model.inputs import Opened, Row
from torchrelay.worker.model.loading import LoadedModel
from torchrelay.worker.model.streaming import ClientWatch, PartSender, Place, SendParts
from torchrelay.worker.model.tensor_requests import TensorRequest

logger = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class Runner:
    """Calls the handler of a loaded model."""

    model: LoadedModel
    decode_input: bool
    response_limit_bytes: int
    sequence_headers: SequenceHeaders = field(default_factory=SequenceHeaders)

    def __post_init__(self) -> None:
        context = self.model.context
        take_points = context.metrics.take_points if context.metrics else list
        self.measuring = Measuring(context.model_name, take_points)

    def new_part_sender(
        self, context: Context, send: SendParts, watch: ClientWatch | None = None
    ) -> PartSender:
        """Give a context the sender of parts that its handlers use; they go to `send`."""
        part_sender = PartSender(context, send, self.response_limit_bytes, watch)
        context.cl_socket = part_sender
        return part_sender

    def run(self, part_sender: PartSender, batch: Batch) -> tuple[list[codec.Response], int]:
        """Answer each job of a batch, in order; also return the handler's time in us."""
        jobs: list[Opened] = []
        places: list[Place] = []
        unreadable: dict[int, codec.Response] = {}
        for idx, job in enumerate(batch.jobs):
            opened = self.open(job)
            if isinstance(opened, Opened):
                jobs.append(opened)
                places.append((batch.lease, idx))
            else:
                unreadable[idx] = opened
        replies: list[codec.Response] = []
        handler_us = 0
        if jobs:
            output, handler_us = self.call(part_sender, jobs, places, is_describe=batch.is_describe)
            failure = outputs.batch_failure(output, len(jobs))
            if failure is not None:
                replies = [failure] * len(jobs)
            else:
                assert isinstance(output, list)
                rows = enumerate(output)
                replies = [outputs.guarded_answer(part_sender.last, idx, value) for idx, value in rows]
        for idx, reply in unreadable.items():
            replies.insert(idx, reply)
        return replies, handler_us

    def open(self, job: AssignedJob) -> Opened | codec.Response:
        """Unpack a job, or return its answer where it can't be."""
        try:
            request, values = codec.unpack_request(job.meta, job.frames)
        except codec.WireError as error:
            logger.warning("job.unreadable: %s", error)
            return outputs.failed(InternalError("The request reached its worker in pieces.", str(error)))
        tensors = None
        # PERF: a look at the first input's type; other jobs pay nothing.
        if request.inputs and ";" in request.inputs[0].content_type:
            try:
                tensors = self._tensors(request, values)
            except ValueError as error:  # a TensorError, or what a library has to say of such bytes
                return outputs.failed(BadRequest(str(error)))
        return Opened(request, values, job.sequence, job.starts_sequence, job.given_up_at, tensors)

    def _tensors(self, request: codec.Request, values: Sequence[codec.Payload]) -> TensorRequest | None:
        """Read a request of the open inference protocol; None for any other. Raises TensorError."""
        if not job_inputs.is_request(request.inputs[0].content_type):
            return None
        context = self.model.context
        return tensor_requests.opened(request, values, context, decode_input=self.decode_input)

    def call(
        self,
        part_sender: PartSender,
        jobs: Sequence[Opened],
        places: Sequence[Place],
        *,
        is_describe: bool = False,
        known: int = 0,
    ) -> tuple[object, int]:
        """Call the handler once, and return its output, or what it raised, and its time in us.

        The first `known` of the jobs are ones that the handler has seen before.
        """
        data = self.begin(part_sender.context, jobs, is_describe=is_describe, known=known)
        part_sender.open(places, jobs)
        started = clock.monotonic()
        output = guarded(self.model.entry_point, data, part_sender.context)
        output = guarded(outputs.plain_output, output)
        handler_us = round((clock.monotonic() - started) * 1_000_000)
        part_sender.close()
        self.ended(output, jobs, handler_us)
        return output, handler_us

    def begin(
        self, context: Context, jobs: Sequence[Opened], *, is_describe: bool = False, known: int = 0
    ) -> list[Row]:
        """Tell the context which requests come next; return their rows, empty for known ones."""
        request_ids: dict[int, str] = {}
        processors: list[RequestProcessor] = []
        data: list[Row] = []
        for idx, job in enumerate(jobs):
            row, headers = ({}, {}) if idx < known else inputs.inputs(job, decode_input=self.decode_input)
            inputs.add_headers(headers, job, self.sequence_headers, is_describe=is_describe)
            request_ids[idx] = job.request.request_id
            processor = RequestProcessor(headers)
            # Of a known request parts have gone out, as JSON.
            if job.tensors is not None and idx >= known:
                processor.tensor_request = job.tensors
            processors.append(processor)
            data.append(row)
        context.request_ids = request_ids
        context.request_processor = processors
        if context.metrics is not None:
            context.metrics.request_ids = request_ids
        return data

    def ended(self, output: object, jobs: Sequence[Opened], handler_us: int) -> None:
        """Take note of a call's time, which counts only if it went well, as in TorchServe."""
        if type(output) is list and len(output) == len(jobs):
            self.measuring.predicted(handler_us, [job.request.request_id for job in jobs])
