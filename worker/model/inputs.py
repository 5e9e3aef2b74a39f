"""What handlers get: a job's packed request becomes a row of data and the headers that go with it; no I/O."""

import json
import logging
from collections.abc import Sequence
from math import inf

import msgspec

from torchrelay.shared.wire import codec
from torchrelay.worker.common.handler_errors import one_line
from torchrelay.worker.launcher.launcher_protocol import SequenceHeaders

logger = logging.getLogger(__name__)

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


def inputs(job: Opened, *, decode_input: bool) -> tuple[Row, Headers]:
    """Return name -> value, and name -> content type; of a name that comes twice the last survives.

    Both as in TorchServe, where headers begin with the inputs' types.
    """
    row: Row = {}
    types: Headers = {}
    for item, value in zip(job.request.inputs, job.values, strict=True):
        kind = item.content_type and item.content_type.partition(";")[0].strip()
        row[item.name] = _decoded(kind, value) if decode_input and kind else _own(value)
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


def _decoded(kind: str, value: codec.Payload) -> object:
    """Decode an input by its content type, which is compared with its letters' case.

    What can't be decoded stays bytes, and is the handler's to refuse.
    """
    if kind == "application/json" or kind.startswith("text"):
        try:
            text = str(value, "utf-8")
            return json.loads(text) if kind == "application/json" else text
        except (ValueError, RecursionError) as error:
            logger.warning("input.undecodable: %s", one_line(error))
    return _own(value)


def _own(value: codec.Payload) -> bytearray:
    """Return an input as handlers may change it; one that was copied out of memory is nobody else's."""
    return value if isinstance(value, bytearray) else bytearray(value)
