"""Types of the messages' fields, with their ranges; the codec refuses what lies outside of them.

So nothing gets past it that can't be stored (SQLite's numbers have 64 bits, one of them the sign), sent on,
or looped over. What a part of ours sends lies well within.
"""

from typing import Annotated, Literal, TypeVar

from msgspec import Meta

#: The largest number that every part of the fleet can keep.
NUMBER_LIMIT = 2**63 - 1
#: TorchServe's numbers have 32 bits.
NUMBER_32_LIMIT = 2**31 - 1
#: Whoever reads ids as JSON numbers may have 53 bits for them.
WORKER_ID_LIMIT = 2**53 - 1
#: Workers of one node at the same time; no host has room for more.
SLOTS_LIMIT = 4096
#: Workers that a node names: twice its slots, since those that end are there for a while.
HELD_LIMIT = 2 * SLOTS_LIMIT
DEVICES_LIMIT = 256
#: Labels of one node, or asked for by one model; a few are in use.
LABELS_LIMIT = 32
#: Jobs of one Submit, parts of one Streamed: far above what is sent.
JOBS_LIMIT = 1024
#: Jobs of one batch.
BATCH_LIMIT_JOBS = 16_384
#: Measured points of one message: twice what is sent.
POINTS_LIMIT = 2048
#: Of hosts, nodes and gateways.
NAME_LIMIT_CHARS = 200
#: What a request can say in its target or a header; a registration's texts in JSON are bounded by it as well.
SAID_LIMIT_CHARS = 8192
#: Last lines of a worker; its node keeps half as many.
LINES_LIMIT = 100

ItemT = TypeVar("ItemT")

#: Ids, counts, sizes, offsets.
Number = Annotated[int, Meta(ge=0, le=NUMBER_LIMIT)]
#: Facts that are shown and never reckoned with.
Whole = Annotated[int, Meta(ge=-NUMBER_LIMIT, le=NUMBER_LIMIT)]
Number32 = Annotated[int, Meta(ge=0, le=NUMBER_32_LIMIT)]
Whole32 = Annotated[int, Meta(ge=-NUMBER_32_LIMIT - 1, le=NUMBER_32_LIMIT)]
#: -1 has a meaning of its own.
NumberOrMinusOne = Annotated[int, Meta(ge=-1, le=NUMBER_LIMIT)]
Milliseconds = Annotated[int, Meta(ge=1, le=NUMBER_32_LIMIT)]
WorkerId = Annotated[int, Meta(ge=0, le=WORKER_ID_LIMIT)]
Pid = Annotated[int, Meta(ge=-1, le=NUMBER_32_LIMIT)]
Slots = Annotated[int, Meta(ge=0, le=SLOTS_LIMIT)]
Signal = Annotated[int, Meta(ge=0, le=255)]

#: The name of a host, node or gateway.
Name = Annotated[str, Meta(max_length=NAME_LIMIT_CHARS)]
Said = Annotated[str, Meta(max_length=SAID_LIMIT_CHARS)]
#: What parts tell each other in words.
Prose = Annotated[str, Meta(max_length=1 << 20)]
#: At which socket a memory is handed out, and what tells it from any other; see `shared_memory`.
Mark = Annotated[bytes, Meta(max_length=100)]
#: `cpu`, or a GPU as torch counts them.
DeviceName = Annotated[str, Meta(pattern=r"^(cpu|cuda(:(0|[1-9][0-9]{0,2}))?)\Z")]
#: A public key by which a part is known, in hex; see `curve`.
PublicKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
#: The same, or "" for a part that needs none.
PublicKeyOrNone = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
#: Name or value of a label: nothing that a list, an assignment or a command line is made of.
LabelText = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._/-]{1,63}\Z")]
#: The sha256 of an archive in hex, which nodes use as a file's name.
ArchiveName = Annotated[str, Meta(pattern=r"^[\w.-]{0,128}\Z")]

#: An API that asks for a key of its own; `token` is the one that renews the keys of the others.
KeyedApi = Literal["inference", "management", "token"]

#: What a member of a fleet is; workers are their node's.
MemberRole = Literal["node", "gateway"]

Numbers = tuple[Number, ...]
Devices = Annotated[tuple[ItemT, ...], Meta(max_length=DEVICES_LIMIT)]
#: What an operator says of a host, and a model may ask for: (name, value).
Labels = Annotated[tuple[tuple[LabelText, LabelText], ...], Meta(max_length=LABELS_LIMIT)]
Held = Annotated[tuple[ItemT, ...], Meta(max_length=HELD_LIMIT)]
OfOneTurn = Annotated[tuple[ItemT, ...], Meta(max_length=JOBS_LIMIT)]
OfOneBatch = Annotated[tuple[ItemT, ...], Meta(max_length=BATCH_LIMIT_JOBS)]
Points = Annotated[tuple[ItemT, ...], Meta(max_length=POINTS_LIMIT)]
#: HTTP answers by the class of their status.
Responses = Annotated[dict[Name, Number], Meta(max_length=16)]
Lines = Annotated[tuple[Said, ...], Meta(max_length=LINES_LIMIT)]
