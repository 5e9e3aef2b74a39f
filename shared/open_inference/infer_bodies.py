"""Bodies of requests and answers: JSON, or JSON with the tensors' data behind it as binary data.

Of the second kind the header HEADER_LENGTH says where the JSON ends. Bodies come from outside: what is wrong
with one is a TensorError that says so.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from torchrelay.shared.open_inference.tensors import (
    DIMENSIONS_LIMIT,
    SIZE_LIMIT_BYTES,
    Buffer,
    Parameters,
    Tensor,
    TensorError,
)
from torchrelay.shared.quoting import quoted

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY_TYPE = "application/octet-stream"
JSON_TYPE = "application/json"
#: Parameters of a tensor: how many bytes it has behind the JSON; that it is wanted there.
SIZE, WANTED = "binary_data_size", "binary_data"
#: The parameter of a request that wants all its outputs so.
ALL_WANTED = "binary_data_output"
#: The JSON is filled up with spaces to a multiple of this: so the data behind it can be used where they lie.
ALIGNMENT_BYTES = 64
#: More than a model has; each costs a little, and they come from outside.
TENSORS_LIMIT = 1000


_Dimension = Annotated[int, msgspec.Meta(ge=0, le=SIZE_LIMIT_BYTES)]


class _Said(msgspec.Struct, omit_defaults=True):
    """A tensor in JSON."""

    name: str
    shape: Annotated[list[_Dimension], msgspec.Meta(max_length=DIMENSIONS_LIMIT)]
    datatype: str
    parameters: Parameters = {}
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET  # Any: of any type, and nested


_AllSaid = Annotated[list[_Said], msgspec.Meta(max_length=TENSORS_LIMIT)]


class WantedOutput(msgspec.Struct, omit_defaults=True):
    """An output that a request names."""

    name: str
    parameters: Parameters = {}


class _ResponseSaid(msgspec.Struct, omit_defaults=True):
    outputs: _AllSaid
    id: str | None = ""
    model_name: str | None = ""
    model_version: str | None = ""
    parameters: Parameters = {}


class Wanted(msgspec.Struct, frozen=True):
    """Which outputs a request wants as binary data."""

    by_default: bool = False
    named: dict[str, bool] = {}

    def is_binary(self, name: str) -> bool:
        """Tell whether it wants this one so."""
        return self.named.get(name, self.by_default)

    @property
    def is_any_binary(self) -> bool:
        """Whether it wants any so."""
        return self.by_default or any(self.named.values())


class RequestFacts(msgspec.Struct, kw_only=True):
    """What a request says beside its inputs; texts that are empty are not there."""

    id: str = ""
    model_name: str = ""
    model_version: str = ""
    parameters: Parameters = {}
    outputs: list[WantedOutput] = []

    @property
    def wanted(self) -> Wanted:
        """Which outputs it wants as binary data."""
        named = {one.name: one.parameters[WANTED] is True for one in self.outputs if WANTED in one.parameters}
        return Wanted(self.parameters.get(ALL_WANTED) is True, named)


class _RequestSaid(RequestFacts):
    inputs: _AllSaid


class InferRequest(RequestFacts):
    """A request."""

    inputs: list[Tensor]


class InferResponse(msgspec.Struct):
    """An answer; texts that are empty are not there."""

    outputs: list[Tensor]
    id: str = ""
    model_name: str = ""
    model_version: str = ""
    parameters: Parameters = {}


class EncodedBody(msgspec.Struct, frozen=True):
    """A body in pieces, so that no data need be copied; `header_length` is None where it is JSON alone."""

    pieces: list[Buffer]
    header_length: int | None

    def headers(self) -> dict[str, str]:
        """Return the HTTP headers that go with it."""
        if self.header_length is None:
            return {"Content-Type": JSON_TYPE}
        return {"Content-Type": BINARY_TYPE, HEADER_LENGTH: str(self.header_length)}

    def joined(self) -> bytes:
        """Return the body in one piece."""
        return bytes(self.pieces[0]) if len(self.pieces) == 1 else b"".join(self.pieces)


def encode_request(request: InferRequest, *, is_binary: bool = True) -> EncodedBody:
    """Write a request, its inputs as binary data or as JSON. Raises TensorError."""
    said = _texts(request)
    if request.outputs:
        said["outputs"] = msgspec.to_builtins(request.outputs)
    return _encoded(said, "inputs", request.inputs, lambda _: is_binary)


def encode_response(response: InferResponse, wanted: Wanted) -> EncodedBody:
    """Write an answer, its outputs as a request wants them. Raises TensorError."""
    return _encoded(_texts(response), "outputs", response.outputs, wanted.is_binary)


def decode_request(pieces: Sequence[Buffer], header_length: int | None) -> InferRequest:
    """Read a request, see `decode_response`."""
    said, inputs = _decoded(_RequestSaid, "inputs", pieces, header_length)
    facts = {name: getattr(said, name) for name in RequestFacts.__struct_fields__}
    return InferRequest(inputs, **facts)


def decode_response(pieces: Sequence[Buffer], header_length: int | None) -> InferResponse:
    """Read an answer; its tensors' data are views of the pieces. Raises TensorError.

    A tensor's data lie in one piece; most bodies have only one. Whether they are as many as its shape says is
    seen when they are asked for.
    """
    said, outputs = _decoded(_ResponseSaid, "outputs", pieces, header_length)
    return InferResponse(
        outputs, said.id or "", said.model_name or "", said.model_version or "", said.parameters
    )


def header_length_of(text: str | None, body_length: int) -> int | None:
    """Read what HEADER_LENGTH says, None where there is no such header. Raises TensorError."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(2**63)):
        raise TensorError(f"The header {HEADER_LENGTH} is no number of bytes: {quoted(text)}")
    if int(text) > body_length:
        raise TensorError(
            f"The header {HEADER_LENGTH} says {text} bytes of JSON; the body has {body_length}."
        )
    return int(text)


def _texts(message: InferRequest | InferResponse) -> dict[str, object]:
    names = ("id", "model_name", "model_version", "parameters")
    return {name: getattr(message, name) for name in names if getattr(message, name)}


def _encoded(
    said: dict[str, object], name: str, tensors: Iterable[Tensor], is_binary: Callable[[str], bool]
) -> EncodedBody:
    pieces: list[Buffer] = []
    described: list[dict[str, object]] = []
    for one in tensors:
        facts: dict[str, object] = {"name": one.name, "shape": list(one.shape), "datatype": one.datatype}
        parameters = {key: value for key, value in one.parameters.items() if key != SIZE}
        if is_binary(one.name):
            pieces.append(one.packed())
            parameters[SIZE] = len(pieces[-1])
        if parameters:
            facts["parameters"] = parameters
        if SIZE not in parameters:
            facts["data"] = _json_values(one)
        described.append(facts)
    said[name] = described
    try:
        head = json.dumps(said, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise TensorError(f"A parameter is nothing that JSON has: {quoted(error)}") from error
    if not pieces:
        return EncodedBody([head], None)
    head = head.ljust(-(-len(head) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
    return EncodedBody([head, *pieces], len(head))


def _json_values(tensor: Tensor) -> list[object]:
    try:
        return [str(one, "utf-8") if isinstance(one, bytes) else one for one in tensor.values()]
    except UnicodeDecodeError as error:
        raise TensorError(
            f"{tensor}: its BYTES are no UTF-8, which alone JSON has; they can be sent as binary data."
        ) from error


S = TypeVar("S", _RequestSaid, _ResponseSaid)


def _decoded(
    kind: type[S], name: str, pieces: Sequence[Buffer], header_length: int | None
) -> tuple[S, list[Tensor]]:
    first, *others = (memoryview(piece) for piece in pieces)
    if header_length is not None and header_length > len(first):
        raise TensorError(f"The JSON is said to have {header_length} bytes; {len(first)} have come.")
    length = len(first) if header_length is None else header_length
    said = _from_json(kind, first[:length])
    data = _BinaryData([first[length:], *others])
    tensors = [data.tensor(one) for one in getattr(said, name)]
    data.require_end()
    return said, tensors


class _BinaryData:
    """What comes behind the JSON, taken tensor by tensor."""

    def __init__(self, pieces: list[memoryview]) -> None:
        self._pieces = [piece for piece in pieces if len(piece)]

    def tensor(self, said: _Said) -> Tensor:
        """Return a tensor with its data, from the JSON or from behind it."""
        if SIZE not in said.parameters:
            if said.data is msgspec.UNSET:
                raise TensorError(f"Tensor {quoted(repr(said.name))} has no data.")
            return Tensor(said.name, said.datatype, said.shape, said.data, said.parameters)
        size = said.parameters[SIZE]
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise TensorError(
                f"Tensor {quoted(repr(said.name))}: {SIZE} is no number of bytes: {quoted(repr(size))}"
            )
        if said.data is not msgspec.UNSET:
            raise TensorError(f"Tensor {quoted(repr(said.name))} has data, and {SIZE} as well.")
        others = {key: value for key, value in said.parameters.items() if key != SIZE}
        return Tensor(said.name, said.datatype, said.shape, self._take(said.name, size), others)

    def _take(self, name: str, size: int) -> memoryview:
        if not size:
            return memoryview(b"")
        first = self._pieces[0] if self._pieces else memoryview(b"")
        if size > len(first):
            raise TensorError(
                f"Tensor {quoted(repr(name))}: {SIZE} is {size}, and {len(first)} bytes are left."
            )
        if size == len(first):
            del self._pieces[0]
        else:
            self._pieces[0] = first[size:]
        return first[:size]

    def require_end(self) -> None:
        """Raise TensorError where more has come than the tensors have."""
        left = sum(map(len, self._pieces))
        if left:
            raise TensorError(f"{left} bytes are left behind the data of all tensors.")


def _from_json(kind: type[S], text: memoryview) -> S:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise TensorError(f"The JSON is no message of the protocol: {quoted(error)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # Python and others write NaN and Infinity, which JSON hasn't
    try:
        return msgspec.convert(json.loads(str(text, "utf-8")), kind)
    except msgspec.ValidationError as error:
        raise TensorError(f"The JSON is no message of the protocol: {quoted(error)}") from error
    except (ValueError, RecursionError) as error:
        raise TensorError(f"The body is not JSON: {quoted(error)}") from error
