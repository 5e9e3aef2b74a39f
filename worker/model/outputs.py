"""What callers get: a row of a handler's output, or what it raised, becomes a response; no I/O."""

import re
from collections.abc import Callable

from ts.context import RequestProcessor
from ts.utils.util import PredictionException

from torchrelay.shared.errors import OutOfResources, PredictionFailed, RelayError
from torchrelay.shared.wire import codec
from torchrelay.worker.common.handler_errors import guarded, is_out_of_memory, one_line, text_of
from torchrelay.worker.model import json_text, loaded_torch, tensor_answers

#: What a header line can carry; a line break in it would begin a header, or a response, of its own.
_HEADER_TEXT = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

#: PERF: `bytes | bytearray` in a call is made anew each time, which takes as long as the check.
_BINARY = (bytes, bytearray)
#: What json and UTF-8 raise at a value that they have no form for.
_UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError)
#: TorchServe's own header between worker and server, which its clients see, too.
STREAM_HEADER = "ts_stream_next"
#: What a client can be told; those below 200 announce an answer, and are none.
_STATUSES = range(200, 1000)


def answer(processor: RequestProcessor, value: object, limit_bytes: int) -> codec.Response:
    """Return the response of one row, with the status and headers that the handler has set for it.

    Raises whatever the handler's own objects raise; see `guarded_answer`.
    """
    # PERF: most are bytes of which nothing else was said; to go the long way takes 9 % of a row.
    if type(value) is bytes:
        body: object = value
    else:
        body = bytes(value) if type(value) is bytearray else guarded(_encoded, value, processor)
        if isinstance(body, _UNENCODABLE):
            return failed(PredictionFailed("Unsupported model output data type.", one_line(body)))
        if isinstance(body, BaseException):
            return raised(body)
    assert isinstance(body, bytes)
    if len(body) > limit_bytes:
        fault = f"The response has {len(body)} bytes, max_response_size is {limit_bytes}."
        # TorchServe's worker dies of it, with a 500; this row alone gets that status.
        return failed(PredictionFailed(fault), status=500)
    code = processor.get_response_status_code()
    phrase = processor.get_response_status_phrase()
    phrase = "" if phrase is None else phrase
    headers = processor.get_response_headers()
    if type(code) is int and code == 200 and not phrase and not headers:
        return codec.Response(200, "", (), body)
    fault = _unsendable(code, phrase, headers)
    if fault:
        return failed(PredictionFailed("Prediction failed", fault))
    plain = [(_plain(name), _plain(value)) for name, value in headers.items()]
    return codec.Response(int.__int__(code), _plain(phrase), tuple(plain), body)


def guarded_answer(make: Callable[..., codec.Response], *arguments: object) -> codec.Response:
    """Return what `make` does, or an error where objects of the handler's own keep it from making any."""
    made = guarded(make, *arguments)
    return made if isinstance(made, codec.Response) else failed(PredictionFailed("Prediction failed"))


def plain_output(output: object) -> object:
    """Return a handler's output; of a list of a class of its own the items count, not what it says."""
    return output if type(output) is list or not isinstance(output, list) else list.copy(output)


def batch_failure(output: object, rows: int) -> codec.Response | None:
    """Return what every request of a call is answered, if the handler raised or returned no such list."""
    if isinstance(output, BaseException):
        return raised(output)
    if not isinstance(output, list):
        details = f"the handler returned a {type(output).__name__}, not a list"
        return failed(PredictionFailed("Invalid model predict output", details))
    if len(output) != rows:
        details = f"the handler returned {len(output)} rows for a batch of {rows}"
        return failed(PredictionFailed("number of batch response mismatched", details))
    return None


def raised(error: BaseException) -> codec.Response:
    """Return the answer for what a handler raised."""
    return guarded_answer(_raised, error)


def _raised(error: BaseException) -> codec.Response:
    if isinstance(error, PredictionException):
        return refused(error.message, error.error_code)
    if is_out_of_memory(error):
        return failed(OutOfResources("Out of resources", one_line(error)))
    return failed(PredictionFailed("Prediction failed", one_line(error)))


def refused(message: object, code: object) -> codec.Response:
    """Return the answer for a handler's own refusal; a code that is no status of HTTP becomes a 500."""
    status = int.__int__(code) if isinstance(code, int) else 0
    # TorchServe keeps 413 for bodies above its limit.
    status = 507 if status == 413 else status if status in _STATUSES else 500
    return failed(PredictionFailed(text_of(message)), status=status)


def failed(error: RelayError, status: int | None = None) -> codec.Response:
    """Return an answer that is an error; `status` where it isn't the error's own."""
    return codec.Response(
        status or error.status, "", (), b"", error=(error.name, error.message, error.details)
    )


def _encoded(value: object, processor: RequestProcessor) -> bytes:
    """Encode one row of the answer. Raises TypeError and its like for what has no encoding."""
    if isinstance(value, _BINARY):
        return value if type(value) is bytes else bytes(memoryview(value))
    if isinstance(value, str):
        encoded = value.encode()
        if type(encoded) is not bytes:
            raise TypeError(f"{type(value).__name__}.encode() returned no bytes")
        return encoded
    if (tensor := loaded_torch.saved(value)) is not None:
        return tensor
    return _json(value, processor)


def _json(value: object, processor: RequestProcessor) -> bytes:
    """Encode an object; an answer of the open inference protocol may have binary data behind its JSON."""
    request = processor.tensor_request
    # The parts of a stream can't say how long their JSON is: they have none.
    is_part = STREAM_HEADER in processor.get_response_headers()
    if (answer := tensor_answers.encoded(value, None if is_part else request)) is not None:
        for name, text in answer.headers().items():
            processor.add_response_property(name.lower(), text)  # as `set_response_content_type` spells it
        return answer.joined()
    if request is None:
        return json_text.write(value)
    value = tensor_answers.with_facts(value, request)
    return json_text.write(value, tensor_answers.as_json)


def _plain(text: str) -> str:
    """Return a text as a plain string: one of a class of its own can't be sent."""
    return text if type(text) is str else str.__str__(text)


def _unsendable(code: object, phrase: object, headers: dict[str, str]) -> str:
    """Say what HTTP could not carry of what the handler set; empty if nothing."""
    if not isinstance(code, int) or not isinstance(phrase, str):
        return f"the status {code!r} {phrase!r} is not a number and a text"
    if int.__int__(code) not in _STATUSES:
        return f"the status is not from {_STATUSES[0]} to {_STATUSES[-1]}"
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            return f"the response header {name!r} is a {type(value).__name__}, not text"
        if not _HEADER_TEXT.fullmatch(name + value):
            return f"the response header {name!r} has signs that HTTP can't carry"
    if phrase and not _HEADER_TEXT.fullmatch(phrase):
        return "the reason phrase has signs that HTTP can't carry"
    return ""
