"""What handlers get: a job's packed request becomes a row of data and the headers that go with it; no I/O."""

import json
import logging
from collections.abc import Sequence
from typing import NamedTuple

from shared import wire
from worker.faults import one_line
from worker.orders import SequenceHeaders
from worker.session import Job, Payload

logger = logging.getLogger(__name__)

Row = dict[str, object]

#: Callers' keys to our own door are none of a handler's business.
_WITHHELD_HEADERS = frozenset(("authorization",))


class Opened(NamedTuple):
    """A job whose request could be read."""

    request: wire.Request
    values: Sequence[Payload]
    sequence: str = ""
    starts_sequence: bool = False


def opened(job: Job) -> Opened:
    """Unpack a job's request. Raises WireError."""
    request, values = wire.unpack_request(job.meta, job.frames)
    return Opened(request, values, job.sequence, job.starts_sequence)


def row(job: Opened, *, decode_input: bool) -> Row:
    """Return name -> value; of a name that comes twice the last survives, as in TorchServe."""
    return {
        item.name: _decoded(item.content_type, value, decode_input)
        for item, value in zip(job.request.inputs, job.values, strict=True)
    }


def headers(job: Opened, names: SequenceHeaders, *, is_describe: bool, is_known: bool) -> dict[str, object]:
    """Return what `get_all_request_header` shows: each input's content type, then the HTTP headers.

    `is_known`: the handler has seen the request before, and gets no inputs with it.
    """
    found: dict[str, object] = {}
    if not is_known:
        found = {item.name: {"content-type": _plain_type(item.content_type)} for item in job.request.inputs}
    found |= {name: value for name, value in job.request.headers if name.lower() not in _WITHHELD_HEADERS}
    if is_describe:
        found["describe"] = "True"
    if job.sequence:
        found[names.id] = job.sequence
        if job.starts_sequence:
            found[names.start] = "true"
    return found


def _decoded(content_type: str, value: Payload, decode_input: bool) -> object:
    """Decode an input by its content type, which is compared with its letters' case.

    What can't be decoded stays bytes, and is the handler's to refuse.
    """
    kind = _plain_type(content_type)
    if decode_input and (kind == "application/json" or kind.startswith("text")):
        try:
            text = str(value, "utf-8")
            return json.loads(text) if kind == "application/json" else text
        except (ValueError, RecursionError) as error:
            logger.warning("input.undecodable: %s", one_line(error))
    return bytearray(value)


def _plain_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip()
