"""Identifiers; the one place that draws random ones."""

import hashlib
import os
import secrets
import struct
from collections.abc import Iterator


def routing_id(role: str) -> bytes:
    """Draw a ZeroMQ routing id: the role's first letter and 16 random bytes, new at each process start.

    Reusing an id across restarts would let libzmq refuse the newcomer while the old connection lingers.
    """
    return role[:1].encode() + secrets.token_bytes(16)


def seed() -> int:
    """Draw 32 bits for a generator that isn't ours."""
    return secrets.randbits(32)


def boundary() -> str:
    """Draw what a form's parts don't have in them; from any thread."""
    return secrets.token_hex(16)


def chance() -> float:
    """Draw a number from 0 up to 1; from any thread."""
    return secrets.randbits(53) / 2**53


def shown_peer(routing_id: bytes) -> str:
    """Name a peer in a log: by its routing id itself another could take its connection over."""
    return hashlib.sha256(routing_id).hexdigest()[:12]


def folder_suffix() -> str:
    """Draw what no other folder's name ends with; from any thread."""
    return secrets.token_hex(16)


def mark() -> bytes:
    """Draw 16 bytes by which a memory is known, and which nobody can guess."""
    return secrets.token_bytes(16)


def secret() -> str:
    """Draw an access key: 24 random bytes in URL-safe base64, which is 32 characters.

    TorchServe's 6 bytes can be tried out over a fast network; nothing asks how long a key is. No key begins
    with a dash: commands would take it for an option.
    """
    while (drawn := secrets.token_urlsafe(24)).startswith("-"):
        pass
    return drawn


#: What makes of any byte the one that tells a UUID's version 4, and its variant.
_VERSION = bytes(byte & 0x0F | 0x40 for byte in range(256))
_VARIANT = bytes(byte & 0x3F | 0x80 for byte in range(256))
_FIELDS = struct.Struct("8s4s4s4s12s")


def _request_ids() -> Iterator[str]:
    """Yield UUIDv4s made from random bytes drawn for many at a time.

    PERF: 3,000 instructions an id; `uuid.uuid4` takes six times as many, and a system call each.
    """
    while True:
        drawn = bytearray(os.urandom(16 * _IDS_PER_DRAW))
        drawn[6::16] = drawn[6::16].translate(_VERSION)
        drawn[8::16] = drawn[8::16].translate(_VARIANT)
        yield from b" ".join(map(b"-".join, _FIELDS.iter_unpack(drawn.hex().encode()))).decode().split(" ")


#: Ids of one draw.
_IDS_PER_DRAW = 256
_ids = _request_ids()


def _start_afresh() -> None:
    """Forget what was drawn: a forked process must not give out its parent's ids."""
    global _ids
    _ids = _request_ids()


os.register_at_fork(after_in_child=_start_afresh)


def request_id() -> str:
    """Draw an `x-request-id`, a UUIDv4 as TorchServe's are; from the event loop's thread alone."""
    return next(_ids)


def sequence_id() -> str:
    """Draw the id of a sequence whose client named none, of TorchServe's form."""
    return f"ts-seq-{next(_ids)}"
