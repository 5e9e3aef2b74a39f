"""Jobs that calls by gRPC have done: submitted, and answered part by part."""

from collections.abc import Sequence

from torchrelay.gateway.calls.prediction_jobs import Input, failure
from torchrelay.gateway.grpc.grpc_errors import CallRefused, busy, refusal
from torchrelay.gateway.grpc.served_calls import Context, answer_by
from torchrelay.gateway.link import Link
from torchrelay.gateway.session import Answer
from torchrelay.gateway.waiter import Waiter
from torchrelay.shared import errors, ids
from torchrelay.shared.wire import codec


def submit(
    link: Link, model: str, version: str, inputs: Sequence[Input], context: Context, sequence: str = ""
) -> Waiter[Answer]:
    """Have a job done. Raises CallRefused for want of room."""
    meta, frames = codec.pack_request(ids.request_id(), (), inputs)
    try:
        return link.submit(
            model, version or None, meta, frames, sequence=sequence, answer_by=answer_by(context)
        )
    except (errors.ServiceUnavailable, errors.BrokerUnreachable) as error:
        raise busy(error) from error


async def part_of(job: Waiter[Answer]) -> tuple[codec.Response, codec.Payload, bool]:
    """Wait for the next part of an answer; return it, its body, and whether it is the last.

    Raises CallRefused for a failure.
    """
    answer = await job
    response, body = codec.unpack_response(answer.meta, answer.frames)
    if response.error is not None:
        # A status that HTTP doesn't have says something here, too.
        raise CallRefused(refusal(failure(response)[0], "inference", response.status or None))
    return response, body, answer.is_final
