"""What handlers get: a job's packed request becomes a row of data and the headers that go with it; no I/O."""

from collections.abc import Sequence
from math import inf

import msgspec

from torchrelay.shared.wire import codec
from torchrelay.worker.launcher.launcher_protocol import SequenceHeaders
from torchrelay.worker.model.input_values import decoded, own
from torchrelay.worker.model.tensor_requests import TensorRequest

Row = dict[str, object]
Headers = dict[str, object]


class Opened(msgspec.Struct, frozen=True, gc=False):
    """A job whose request could be read."""

    request: codec.Request
    values: Sequence[codec.Payload]
    sequence: str = ""
    starts_sequence: bool = False
    #: When its client gives up, in the time of this process.
    given_up_at: float = inf
    #: What it asks in the open inference protocol, if it does.
    tensors: TensorRequest | None = None


def inputs(job: Opened, *, decode_input: bool) -> tuple[Row, Headers]:
    """Return name -> value, and name -> content type; of a name that comes twice the last survives.

    Both as in TorchServe, where headers begin with the inputs' types.
    """
    if job.tensors is not None:
        return {"body": job.tensors.body}, {"body": {"content-type": job.tensors.content_type}}
    row: Row = {}
    types: Headers = {}
    for item, value in zip(job.request.inputs, job.values, strict=True):
        kind = item.content_type and item.content_type.partition(";")[0].strip()
        row[item.name] = decoded(kind, value) if decode_input and kind else own(value)
        types[item.name] = {"content-type": kind}
    return row, types


def add_headers(found: Headers, job: Opened, names: SequenceHeaders, *, is_describe: bool) -> None:
    """Add to the types of a request's inputs what else `get_all_request_header` shows."""
    found.update(job.request.headers)
    if is_describe:
        found["describe"] = "True"
    if job.sequence:
        found[names.id] = job.sequence
        if job.starts_sequence:
            found[names.start] = "true"
