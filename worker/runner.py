"""Runs a batch: requests in, responses out, whatever the handler does; no I/O.

One bad item fails alone; what the handler itself gets wrong fails its whole batch, as in TorchServe.
A handler that ends the process (SystemExit, os._exit) ends it: that is the node's to report.
"""

import io
import json
import logging
import re
from collections.abc import Sequence

import torch
from ts.context import Context, RequestProcessor
from ts.utils.util import PredictionException

from shared import clock, wire
from shared.errors import InternalError, OutOfResources, PredictionFailed, RelayError
from worker.faults import is_out_of_memory, one_line
from worker.loader import Model

logger = logging.getLogger(__name__)

Payload = bytes | memoryview
Row = dict[str, object]

#: Callers' keys to our own door are none of a handler's business.
_WITHHELD_HEADERS = frozenset(("authorization",))
#: What a header line can carry; a line break in it would begin a header, or a response, of its own.
_HEADER_TEXT = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Runner:
    """Calls a loaded model batch by batch."""

    def __init__(self, model: Model, *, decode_input: bool, response_limit_bytes: int) -> None:
        self._model = model
        self._decode_input = decode_input
        self._response_limit_bytes = response_limit_bytes

    def run(
        self, jobs: Sequence[tuple[bytes, Sequence[Payload]]], *, is_describe: bool
    ) -> tuple[list[wire.Response], int]:
        """Answer each job, packed by `wire.pack_request`, in order; also return the handler's time in us."""
        opened = [_open(meta, frames) for meta, frames in jobs]
        good = [item for item in opened if not isinstance(item, wire.Response)]
        answers, handler_us = self._call(good, is_describe) if good else ([], 0)
        rest = iter(answers)
        return [item if isinstance(item, wire.Response) else next(rest) for item in opened], handler_us

    def _call(
        self, requests: list[tuple[wire.Request, list[Payload]]], is_describe: bool
    ) -> tuple[list[wire.Response], int]:
        context = self._model.context
        rows = [self._row(request, values) for request, values in requests]
        context.request_ids = {idx: request.request_id for idx, (request, _) in enumerate(requests)}
        context.request_processor = [
            RequestProcessor(_headers(request, is_describe)) for request, _ in requests
        ]
        if context.metrics is not None:
            context.metrics.request_ids = context.request_ids
        started = clock.monotonic()
        try:
            output = self._model.entry_point(rows, context)
        except Exception as error:  # boundary: a handler may raise anything, and its worker goes on
            logger.exception("handler.raised")
            output = error
        handler_us = round((clock.monotonic() - started) * 1_000_000)
        failure = _batch_failure(output, len(rows))
        if failure is not None:
            return [failure] * len(rows), handler_us
        assert isinstance(output, list)
        return [self._answer(context, idx, value) for idx, value in enumerate(output)], handler_us

    def _row(self, request: wire.Request, values: list[Payload]) -> Row:
        """Return name -> value; of a name that comes twice the last survives, as in TorchServe."""
        return {
            item.name: self._decode(item.content_type, value)
            for item, value in zip(request.inputs, values, strict=True)
        }

    def _decode(self, content_type: str, value: Payload) -> object:
        """Decode an input by its content type, which is compared with its letters' case.

        What can't be decoded stays bytes, and is the handler's to refuse.
        """
        kind = _plain_type(content_type)
        if self._decode_input and (kind == "application/json" or kind.startswith("text")):
            try:
                text = str(value, "utf-8")
                return json.loads(text) if kind == "application/json" else text
            except (ValueError, RecursionError) as error:
                logger.warning("input.undecodable: %s", one_line(error))
        return bytearray(value)

    def _answer(self, context: Context, idx: int, value: object) -> wire.Response:
        try:
            body = _encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            return _failed(PredictionFailed("Unsupported model output data type.", one_line(error)))
        if len(body) > self._response_limit_bytes:
            fault = f"The response has {len(body)} bytes, max_response_size is {self._response_limit_bytes}."
            # TorchServe's worker dies of it, with a 500; this row alone gets that status.
            return _failed(PredictionFailed(fault), status=500)
        code, phrase = context.get_response_status(idx)
        headers = context.get_response_headers(idx)
        fault = _response_fault(code, phrase, headers)
        if fault:
            return _failed(PredictionFailed("Prediction failed", fault))
        return wire.Response(code, phrase, tuple(headers.items()), body)


def _open(meta: bytes, frames: Sequence[Payload]) -> tuple[wire.Request, list[Payload]] | wire.Response:
    try:
        return wire.unpack_request(meta, frames)
    except wire.WireError as error:
        logger.warning("job.unreadable: %s", error)
        return _failed(InternalError("The request reached its worker in pieces.", str(error)))


def _headers(request: wire.Request, is_describe: bool) -> dict[str, object]:
    """Return what `get_all_request_header` shows: each input's content type, then the HTTP headers."""
    headers: dict[str, object] = {
        item.name: {"content-type": _plain_type(item.content_type)} for item in request.inputs
    }
    headers |= {name: value for name, value in request.headers if name.lower() not in _WITHHELD_HEADERS}
    if is_describe:
        headers["describe"] = "True"
    return headers


def _plain_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip()


def _batch_failure(output: object, rows: int) -> wire.Response | None:
    """Return what every request of the batch is answered, if the handler raised or returned no such list."""
    if isinstance(output, Exception):
        return _raised(output)
    if not isinstance(output, list):
        details = f"the handler returned a {type(output).__name__}, not a list"
        return _failed(PredictionFailed("Invalid model predict output", details))
    if len(output) != rows:
        details = f"the handler returned {len(output)} rows for a batch of {rows}"
        return _failed(PredictionFailed("number of batch response mismatched", details))
    return None


def _raised(error: Exception) -> wire.Response:
    if isinstance(error, PredictionException):
        code = error.error_code if isinstance(error.error_code, int) else 500
        # TorchServe keeps 413 for bodies above its limit.
        return _failed(PredictionFailed(str(error.message)), status=507 if code == 413 else code)
    if is_out_of_memory(error):
        return _failed(OutOfResources("Out of resources", one_line(error)))
    return _failed(PredictionFailed("Prediction failed", one_line(error)))


def _failed(error: RelayError, status: int | None = None) -> wire.Response:
    """Return an answer that is an error; `status` where it isn't the error's own."""
    return wire.Response(
        status or error.status, "", (), b"", error=(error.name, error.message, error.details)
    )


def _encode(value: object) -> bytes:
    """Encode one row of the answer. Raises TypeError and its like for what has no encoding."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, torch.Tensor):
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()
    return json.dumps(value, indent=2).encode()


def _response_fault(code: object, phrase: object, headers: dict[str, str]) -> str:
    """Say what HTTP could not carry of what the handler set; empty if nothing."""
    if not isinstance(code, int) or not isinstance(phrase, str):
        return f"the status {code!r} {phrase!r} is not a number and a text"
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            return f"the response header {name!r} is a {type(value).__name__}, not text"
        if not _HEADER_TEXT.fullmatch(name + value):
            return f"the response header {name!r} has signs that HTTP can't carry"
    if phrase and not _HEADER_TEXT.fullmatch(phrase):
        return "the reason phrase has signs that HTTP can't carry"
    return ""
