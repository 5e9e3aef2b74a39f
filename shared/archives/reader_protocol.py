"""What is asked of the process that reads archives, and what it answers. Paths are bytes."""

import msgspec

#: One order fits a packet: its paths have at most 4 KiB each.
PACKET_LIMIT_BYTES = 64 << 10
#: An answer has a manifest, a model config and a hundred notes.
ANSWER_LIMIT_BYTES = 8 << 20


class Inspect(msgspec.Struct, frozen=True, tag=True):
    """Read what an archive says of itself, and check its entries."""

    path: bytes


class InspectFolder(msgspec.Struct, frozen=True, tag=True):
    """Read what an unpacked archive says of itself; one folder in it may be the one that is meant."""

    path: bytes
    is_inner_meant: bool


class SurveyFiles(msgspec.Struct, frozen=True, tag=True):
    """Read what an archive says of itself, and what its handlers and weights need."""

    path: bytes


class InspectWorkflow(msgspec.Struct, frozen=True, tag=True):
    """Read what an archive of a workflow says of itself, and check its entries."""

    path: bytes


class Extract(msgspec.Struct, frozen=True, tag=True):
    """Unpack an archive."""

    path: bytes
    into: bytes


class Measure(msgspec.Struct, frozen=True, tag=True):
    """Count what an archive's files come to."""

    path: bytes


class Pack(msgspec.Struct, frozen=True, tag=True):
    """Make an archive of a folder."""

    path: bytes
    target: bytes
    link_targets: tuple[bytes, ...]


Work = Inspect | InspectFolder | SurveyFiles | InspectWorkflow | Extract | Measure | Pack


class Order(msgspec.Struct, frozen=True):
    """Work, and what it may take: seconds of CPU, seconds in all, bytes of address space."""

    work: Work
    cpu_s: int
    wall_s: int
    memory_bytes: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """What was read, as the order's kind says."""

    value: msgspec.Raw


class ArchiveRefused(msgspec.Struct, frozen=True, tag=True):
    """An error of our tree, by its name; `errno` tells what the system said, if it was that."""

    name: str
    message: str
    details: str
    errno: int


class SystemRefused(msgspec.Struct, frozen=True, tag=True):
    """An OSError was raised."""

    errno: int
    reason: str
    file: str


class MemoryExhausted(msgspec.Struct, frozen=True, tag=True):
    """There was not enough memory."""


class Unforeseen(msgspec.Struct, frozen=True, tag=True):
    """Another exception was raised, which nobody expected."""

    reason: str


Answer = Done | ArchiveRefused | SystemRefused | MemoryExhausted | Unforeseen


class Ended(msgspec.Struct, frozen=True):
    """The last line of every answer: how its process ended."""

    code: int
