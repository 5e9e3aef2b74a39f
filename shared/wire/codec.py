"""Frames <-> messages; the one place that packs and unpacks msgpack, and no I/O.

One message is `[head][frame 0][frame 1]...`. The head is a 12-byte prefix (wire version, kind, flags,
broker epoch) and one msgpack array, the message's fields. Small payloads are inline in the head; a payload
above INLINE_LIMIT_BYTES is a frame of its own, which the broker forwards by reference without looking inside.
On one host frames may lie in memory that both sides have: the flag LENDS says that the last frame on the
socket is a list of where (`Lent`).

What a job carries from gateway to worker and back (`Request`, `Response`) is packed here too, as bytes
that the broker doesn't open, but for requests that may have ended their worker.
"""

import struct
from collections.abc import Callable, Sequence, Sized
from typing import NoReturn, TypeVar

import msgpack
import msgspec

from torchrelay.shared.processes.shared_memory import Piece, PieceGone
from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import Mark, Number, Whole32

WIRE_VERSION = 1
PREFIX = struct.Struct("!BBHQ")
_PREFIX_BYTES = PREFIX.size
_FLAGS_AT = 3
_packed_prefix, _unpacked_prefix = PREFIX.pack, PREFIX.unpack_from
#: A head above this is not copied to have its fields read; for a smaller one a view costs more than a copy.
_COPIED_HEAD_BYTES = 64 * 1024
#: Above this a payload travels as its own frame; below, one copy is cheaper than a frame's fixed cost.
INLINE_LIMIT_BYTES = 8 * 1024
#: Inline payloads of one job together; more go out as frames, so that heads stay small.
INLINE_TOTAL_LIMIT_BYTES = 64 * 1024
#: A head above this is refused unread; far above any that we make.
HEAD_LIMIT_BYTES = 8 * 1024 * 1024
#: The same for heads that the broker reads: whatever is in one, it takes less than 0.1 s to read.
HEAD_TO_BROKER_LIMIT_BYTES = 2 * 1024 * 1024
#: Where a message to the broker may hold more, its sender makes frames of payloads, or another message.
HEAD_FILL_BYTES = HEAD_TO_BROKER_LIMIT_BYTES // 2
ARRAY_LIMIT = 100_000
FRAMES_LIMIT = 4096
#: The only flag: the last frame says where those are that don't come by the socket.
LENDS = 1

#: Kind number -> message. Numbers are never reused; 1-19 any peer, 20-39 and 130-149 gateways, 40-59 nodes
#: and workers, 60-79 broker to any peer, 80-109 broker to gateways, 110-129 broker to nodes and workers.
KINDS: dict[int, type[m.Message]] = {
    1: m.Bye,
    2: m.Announced,
    3: m.Enrol,
    4: m.OfferMemory,
    5: m.ReadsMemory,
    10: m.Missed,
    20: m.HelloGateway,
    21: m.GatewayBeat,
    22: m.Submit,
    23: m.Cancel,
    24: m.RegisterModel,
    25: m.UnregisterModel,
    26: m.ScaleWorkers,
    27: m.SetDefault,
    28: m.DescribeModel,
    29: m.ListModels,
    30: m.ReadFleet,
    31: m.ReadMetrics,
    32: m.ReadHealth,
    33: m.RenewKey,
    34: m.Invite,
    35: m.EndInvitation,
    36: m.ReadMembers,
    37: m.ChangeMember,
    38: m.RotateBrokerKey,
    39: m.ReadReadiness,
    40: m.HelloNode,
    41: m.NodeBeat,
    42: m.WorkerProgressed,
    43: m.WorkerExited,
    44: m.FetchArchive,
    45: m.NodeMeasured,
    46: m.WorkerKey,
    47: m.NodeLeaves,
    50: m.HelloWorker,
    51: m.WorkerBeat,
    52: m.Completed,
    53: m.Streamed,
    54: m.Measured,
    55: m.CompletedInRow,
    60: m.Welcome,
    61: m.Beat,
    62: m.IntroduceYourself,
    63: m.Leave,
    64: m.Misunderstood,
    65: m.Enrolled,
    66: m.BrokerKeys,
    67: m.MemoryEnds,
    80: m.Answered,
    81: m.Refused,
    82: m.AskRefused,
    83: m.ModelRegistered,
    84: m.ModelUnregistered,
    85: m.WorkersScaled,
    86: m.DefaultSet,
    87: m.ModelDescribed,
    88: m.ModelsListed,
    89: m.FleetRead,
    90: m.MetricsRead,
    91: m.HealthRead,
    92: m.Forgotten,
    93: m.KeyRenewed,
    94: m.KeysChanged,
    95: m.Invited,
    96: m.InvitationEnded,
    97: m.MembersRead,
    98: m.MemberChanged,
    99: m.BrokerKeyRotated,
    100: m.ReadinessRead,
    101: m.WorkflowRegistered,
    102: m.WorkflowUnregistered,
    103: m.WorkflowDescribed,
    104: m.WorkflowsListed,
    110: m.StartWorker,
    111: m.StopWorker,
    112: m.ArchiveChunk,
    113: m.ArchiveMissing,
    120: m.Assign,
    121: m.CancelJobs,
    122: m.AnswerAgain,
    130: m.RegisterWorkflow,
    131: m.UnregisterWorkflow,
    132: m.DescribeWorkflow,
    133: m.ListWorkflows,
}
_NUMBERS = {cls: number for number, cls in KINDS.items()}

#: A payload where it is made or opened.
Payload = bytes | bytearray | memoryview
#: The same, or where it lies.
PayloadOrPiece = Payload | Piece
PayloadT = TypeVar("PayloadT", bound=PayloadOrPiece)
#: A payload on its way: zmq's own frame where it is only forwarded, bytes where it is made or opened.
Frame = Sized
FrameT = TypeVar("FrameT", bound=Sized)


class WireError(ValueError):
    """Bytes that are not a message of ours; says where and why. The peer's fault, never ours."""


def encode(message: m.Message, epoch: int, flags: int = 0) -> bytes:
    """Pack a message's head; its frames, if any, follow it on the socket."""
    return _packed_prefix(WIRE_VERSION, _NUMBERS[type(message)], flags, epoch) + _packed(message)


def decode(head: bytes | memoryview, limit_bytes: int = HEAD_LIMIT_BYTES) -> tuple[m.Message, int]:
    """Unpack a head into its message and the epoch it was sent under.

    Raises WireError for anything else than a well-formed head: wrong version, unknown kind, wrong types,
    values outside of their range.
    """
    size = len(head)
    if size < _PREFIX_BYTES:
        raise WireError(f"a head of {size} bytes is shorter than its prefix")
    if size > limit_bytes:
        raise WireError(f"a head of {size} bytes is above the limit of {limit_bytes}")
    version, number, flags, epoch = _unpacked_prefix(head)
    if version != WIRE_VERSION:
        raise WireError(f"wire version {version}; this side speaks {WIRE_VERSION}")
    cls = KINDS.get(number)
    if cls is None or flags > LENDS:
        raise WireError(f"unknown kind {number}" if cls is None else f"unknown flags {flags:#x}")
    fields = head[_PREFIX_BYTES:] if size < _COPIED_HEAD_BYTES else memoryview(head)[_PREFIX_BYTES:]
    return _unpack(fields, cls), epoch


def split_frames(counts: Sequence[int], frames: Sequence[FrameT]) -> list[tuple[FrameT, ...]]:
    """Deal a message's frames out to its items.

    Raises WireError where the counts don't add up to the frames that came.
    """
    if not frames and not any(counts):
        return [()] * len(counts)
    if min(counts, default=0) < 0 or sum(counts) != len(frames) or len(frames) > FRAMES_LIMIT:
        raise WireError(f"{len(frames)} frames came for items that speak of {sum(counts)}")
    parts, start = [], 0
    for count in counts:
        parts.append(tuple(frames[start : start + count]))
        start += count
    return parts


class Lent(m.Item, frozen=True):
    """Where a message's frame `index` lies: in which memory, and where there."""

    index: Number
    mark: Mark
    offset: Number
    size: Number
    stamp: Number


class _AllLent(m.Item, frozen=True):
    lent: tuple[Lent, ...]


def pack_lent(lent: Sequence[Lent]) -> bytes:
    """Pack what a message with LENDS has as its last frame."""
    return _packed((lent,))


def lends(head: bytes) -> bool:
    """Tell whether the last frame of a message says where others lie."""
    return bool(head[_FLAGS_AT] & LENDS)


def unpack_lent(frame: Payload) -> tuple[Lent, ...]:
    """Return where frames lie, in their order. Raises WireError."""
    lent = _unpack(frame, _AllLent).lent
    if not 0 < len(lent) <= FRAMES_LIMIT:
        raise WireError(f"{len(lent)} frames are lent")
    return lent


class Input(m.Item, frozen=True):
    """One named input of a request; `value` is the bytes themselves or the index of a frame."""

    name: str
    content_type: str
    value: bytes | Number


class Request(m.Item, frozen=True):
    """What the gateway tells the worker about one request; header names keep the client's spelling."""

    request_id: str
    headers: tuple[tuple[str, str], ...]
    inputs: tuple[Input, ...]
    #: The client's own headers as the bytes that came, see `head`; unpacked, they stand before `headers`.
    head: bytes = b""


class Response(m.Item, frozen=True):
    """What the worker answers: `error` is (class name, message, details) instead of a body."""

    status: Whole32
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | Number
    error: tuple[str, str, str] | None = None


def head(names_and_values: Sequence[bytes]) -> bytes:
    """Join headers (name, value, name, value, ...) into a request's `head`.

    PERF: bytes that were never decoded; texts cost the gateway 12,000 instructions more for 3 headers.
    """
    return b"\n".join(names_and_values)


def pack_request(
    request_id: str,
    headers: Sequence[tuple[str, str]],
    inputs: Sequence[tuple[str, str, PayloadT]],
    head: bytes = b"",
) -> tuple[bytes, list[PayloadT]]:
    """Pack a request into the meta of its job and the frames that go with it.

    `inputs` are (name, content type or "", value).
    """
    frames: list[PayloadT] = []
    room = INLINE_TOTAL_LIMIT_BYTES
    # PERF: plain tuples are what Request and Input become on the wire; making those costs as much again.
    packed: list[tuple[str, str, PayloadT | int]] = []
    for name, content_type, value in inputs:
        size = len(value)
        if size > INLINE_LIMIT_BYTES or size > room:
            packed.append((name, content_type, len(frames)))
            frames.append(value)
        else:
            room -= size
            packed.append((name, content_type, value))
    return _packed((request_id, headers, packed, head)), frames


def unpack_request(meta: bytes, frames: Sequence[PayloadOrPiece]) -> tuple[Request, list[Payload]]:
    """Unpack a job's request and the value of each of its inputs. Raises WireError."""
    request = _unpack(meta, Request)
    if request.head:
        headers = _unjoined(request.head) + request.headers
        request = Request(request.request_id, headers, request.inputs)
    return request, [
        item.value if isinstance(item.value, bytes) else _frame(item.value, frames) for item in request.inputs
    ]


def _unjoined(head: bytes) -> tuple[tuple[str, str], ...]:
    texts = head.decode("latin-1").split("\n")
    if len(texts) % 2:
        raise WireError("a header without a value")
    return tuple(zip(texts[::2], texts[1::2], strict=True))


def pack_response(
    response: Response, inline_limit_bytes: int = INLINE_LIMIT_BYTES
) -> tuple[bytes, list[bytes]]:
    """Pack an answer into the meta of its item and the frames that go with it."""
    body = response.body
    frames: list[bytes] = []
    if isinstance(body, bytes) and len(body) > inline_limit_bytes:
        frames.append(body)
        body = 0
    return _packed((response.status, response.reason, response.headers, body, response.error)), frames


def unpack_response(meta: bytes, frames: Sequence[PayloadOrPiece]) -> tuple[Response, Payload]:
    """Unpack an answer and its body. Raises WireError."""
    response = _unpack(meta, Response)
    body = response.body
    return response, body if isinstance(body, bytes) else _frame(body, frames)


def _frame(number: int, frames: Sequence[PayloadOrPiece]) -> Payload:
    if not 0 <= number < len(frames):
        raise WireError(f"frame {number} of {len(frames)} was named")
    return payload(frames[number])


def opened(frame: Frame) -> PayloadOrPiece:
    """Return a frame that is only passed on as one that can be read: bytes, or zmq's own, or in memory."""
    return frame if isinstance(frame, Piece) else memoryview(frame)  # type: ignore[arg-type]


def go_by_socket(frames: Sequence[Frame]) -> bool:
    """Tell whether any of these frames takes its time on the way; those that are lent don't."""
    return any(not isinstance(frame, Piece) for frame in frames)


def payload(frame: PayloadOrPiece) -> Payload:
    """Return what a frame holds. Raises WireError where it lay in memory, and isn't there any more."""
    if not isinstance(frame, Piece):
        return frame
    try:
        return frame.copied()
    except PieceGone:
        raise WireError("what was lent was waited for too long") from None


#: PERF: one for all, since making a packer costs a third of what packing a small message does. It asks for
#: the fields of a struct when it comes to it: for a small message that takes a fifth less than to make plain
#: values of all of it first. Only a process's main thread packs.
_packed: Callable[[object], bytes] = msgpack.Packer(default=msgspec.structs.astuple).pack


StructT = TypeVar("StructT", bound=msgspec.Struct)


def _unpack(data: Payload, cls: type[StructT]) -> StructT:
    # A length that was not sent can't be claimed: arrays are made before their items are read.
    size = len(data)
    limit = size if size < ARRAY_LIMIT else ARRAY_LIMIT
    try:
        raw = msgpack.unpackb(
            data,
            use_list=False,
            strict_map_key=True,
            max_ext_len=0,
            max_array_len=limit,
            max_map_len=limit,
            object_pairs_hook=_first_map() if cls is m.GatewayBeat else _no_map,
        )
        return msgspec.convert(raw, cls)
    except (ValueError, msgpack.UnpackException, msgspec.ValidationError, RecursionError) as error:
        raise WireError(f"not a {cls.__name__}: {quoted(error)}") from error


def _no_map(pairs: object) -> NoReturn:
    """Refuse a map at once: millions of empty ones fit into a head, and each takes 64 bytes to make."""
    raise ValueError("it holds a map")


def _first_map() -> Callable[[list[tuple[object, object]]], dict[object, object]]:
    """Return what makes one map, and refuses the next."""
    made: list[dict[object, object]] = []

    def make(pairs: list[tuple[object, object]]) -> dict[object, object]:
        if made:
            raise ValueError("it holds two maps")
        made.append(dict(pairs))
        return made[0]

    return make
