"""The calls of the inference API. Pure; files are read when a call is sent."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from torchrelay.client import request_bodies
from torchrelay.client.call_failures import UnreadableAnswer
from torchrelay.client.http_calls import (
    MANAGEMENT_LIMIT_BYTES,
    MANAGEMENT_TIMEOUT_S,
    Call,
    ReceivedAnswer,
    decode,
    path_of,
)
from torchrelay.client.request_bodies import Data, Parts, RequestBody
from torchrelay.shared.api_bodies import HealthBody
from torchrelay.shared.deadlines import TIMEOUT_HEADER
from torchrelay.shared.quoting import quoted

if TYPE_CHECKING:
    from torchrelay.shared.open_inference.tensor_arrays import Array

T = TypeVar("T")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[ \t!-~]*[!-~])?)?")
#: What a call says by other means, or what the connection needs.
_OWN_HEADERS = frozenset(
    {"connection", "content-length", "content-type", "host", "transfer-encoding", TIMEOUT_HEADER}
)
#: Says that no JSON is sent: None is JSON, too.
NOTHING: Any = msgspec.UNSET


class Prediction(msgspec.Struct, frozen=True):
    """What a handler answered, as it came."""

    content: bytes
    status: int
    #: By their names in any case.
    headers: Mapping[str, str]
    #: By which the server's logs know the request.
    request_id: str

    @property
    def content_type(self) -> str:
        """The type that the handler has said, without its parameters; "" for none."""
        return self.headers.get("content-type", "").partition(";")[0].strip()

    @property
    def text(self) -> str:
        """The content as text; what is no UTF-8 is replaced."""
        return self.content.decode(errors="replace")

    @overload
    def json(self) -> Any: ...  # Any: whatever the handler says
    @overload
    def json(self, kind: type[T]) -> T: ...

    def json(self, kind: Any = Any) -> Any:
        """Read the content as JSON, of a type of msgspec's if one is named. Raises UnreadableAnswer."""
        try:
            return msgspec.json.decode(self.content, type=kind)
        except msgspec.ValidationError as error:
            raise UnreadableAnswer(f"the answer is not {kind}: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # Python's handlers write NaN and Infinity, which JSON hasn't
        try:
            return msgspec.convert(json.loads(self.content), kind)
        except (ValueError, RecursionError) as error:
            raise UnreadableAnswer(f"the answer is not JSON: {error}") from error


class InferAnswer(msgspec.Struct, frozen=True):
    """An answer of the open inference protocol."""

    outputs: "dict[str, Array]"
    model_name: str
    model_version: str
    id: str
    parameters: Mapping[str, object]
    request_id: str


def predict(
    model: str,
    data: Data | None = None,
    *,
    json: object = NOTHING,
    parts: Parts | None = None,
    version: str | None = None,
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
    path: str | None = None,
    timeout_s: float | None = None,
) -> Call[Prediction]:
    """Have a model answer: `data` is sent as it is, `json` as JSON, `parts` as a form; one of them, or none.

    `data` are bytes, a Path, or a file that is open for reading bytes; files are read while they are sent.
    The default version answers, unless one is named. `headers` are for the handler, as is a `path` behind
    the version's. The server is told that nobody waits after `timeout_s`.
    """
    if path is not None and version is None:
        raise ValueError("a path stands behind a version: name that, too")
    rest = path.strip("/").split("/") if path else ()
    body = body_of(data, json, parts, content_type)
    return prediction("predictions", model, version, *rest, body=body, headers=headers, timeout_s=timeout_s)


def explain(
    model: str,
    data: Data | None = None,
    *,
    json: object = NOTHING,
    parts: Parts | None = None,
    version: str | None = None,
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Call[Prediction]:
    """Have a model explain what it would answer; see `predict`."""
    body = body_of(data, json, parts, content_type)
    return prediction("explanations", model, version, body=body, headers=headers, timeout_s=timeout_s)


def infer(
    model: str,
    inputs: "Mapping[str, Array]",
    *,
    version: str | None = None,
    outputs: Sequence[str] = (),
    parameters: Mapping[str, object] | None = None,
    id: str = "",  # noqa: A002 - the protocol's name
    headers: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Call[InferAnswer]:
    """Send arrays of numpy, and get arrays, by the open inference protocol with its binary data.

    Without `outputs` all come. Raises TensorError for an array that the protocol has no type for.
    """
    from torchrelay.shared.open_inference import infer_bodies
    from torchrelay.shared.open_inference.tensor_arrays import tensor_of

    request = infer_bodies.InferRequest(
        [tensor_of(name, array) for name, array in inputs.items()],
        id=id,
        parameters={infer_bodies.ALL_WANTED: True, **(parameters or {})},
        outputs=[infer_bodies.WantedOutput(name) for name in outputs],
    )
    encoded = infer_bodies.encode_request(request)
    of_version = ("versions", version) if version else ()
    return Call(
        api="inference",
        method="POST",
        path=path_of("v2", "models", model, *of_version, "infer"),
        headers={**sendable(headers), **encoded.headers()},
        body=RequestBody(encoded.pieces),
        read=_read_infer,
        repeated="runs twice",
        timeout_s=timeout_s,
        is_deadline_told=True,
    )


def ping() -> Call[HealthBody]:
    """Ask whether every model has the workers that it should have."""
    return Call(
        api="inference",
        method="GET",
        path="/ping",
        read=lambda answer: decode(answer, HealthBody),
        also_read=(500,),
        repeated="harmless",
        timeout_s=MANAGEMENT_TIMEOUT_S,
        limit_bytes=MANAGEMENT_LIMIT_BYTES,
    )


def prediction(
    *segments: str | None,
    body: RequestBody | None,
    headers: Mapping[str, str] | None,
    timeout_s: float | None,
) -> Call[Prediction]:
    """Make a call whose answer is a handler's. Raises ValueError for a header that can't be sent."""
    return Call(
        api="inference",
        method="POST",
        path=path_of(*segments),
        headers=sendable(headers),
        body=body,
        read=lambda answer: Prediction(answer.content, answer.status, answer.headers, answer.request_id),
        repeated="runs twice",
        timeout_s=timeout_s,
        is_deadline_told=True,
    )


def sendable(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return headers that HTTP can carry. Raises ValueError for others."""
    for name, value in (headers or {}).items():
        if name.lower() in _OWN_HEADERS:
            raise ValueError(
                f"the header {name} is the client's own: content_type and timeout_s say such things"
            )
        if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            raise ValueError(f"the header {name!r} can't be sent: {quoted(repr(value))}")
    return headers or {}


def body_of(
    data: Data | None, json: object, parts: Parts | None, content_type: str | None
) -> RequestBody | None:
    """Return the body of what is sent. Raises TypeError for more than one thing."""
    if sum((data is not None, json is not NOTHING, parts is not None)) > 1:
        raise TypeError("one of data, json and parts is sent")
    if parts is not None or json is not NOTHING:
        if content_type is not None:
            raise TypeError("a content type goes with data; JSON and forms have their own")
        return request_bodies.of_json(json) if parts is None else request_bodies.of_parts(parts)
    if data is None and content_type is None:
        return None
    return request_bodies.of_data(b"" if data is None else data, content_type)


def _read_infer(answer: ReceivedAnswer) -> InferAnswer:
    from torchrelay.shared.open_inference import infer_bodies
    from torchrelay.shared.open_inference.tensor_arrays import array_of
    from torchrelay.shared.open_inference.tensors import TensorError

    content = bytearray().join(answer.pieces)  # the arrays lie in it, and are the caller's to change
    try:
        length = infer_bodies.header_length_of(answer.headers.get(infer_bodies.HEADER_LENGTH), len(content))
        said = infer_bodies.decode_response([content], length)
        outputs = {one.name: array_of(one) for one in said.outputs}
    except TensorError as error:
        raise UnreadableAnswer(f"what answers at {answer.url} is no answer with tensors: {error}") from error
    return InferAnswer(
        outputs, said.model_name, said.model_version, said.id, said.parameters, answer.request_id
    )
