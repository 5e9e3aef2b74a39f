"""Invitations as text: one argument to paste, by which a host joins a broker's fleet. Pure.

It holds a secret: whoever has it can join in its place until it is used up, has expired or is withdrawn.
"""

import base64
import binascii
import hashlib
from typing import Annotated

import msgspec

from torchrelay.shared.wire import curve
from torchrelay.shared.wire import fields as f

#: Tells what this is, and which form of it.
PREFIX = "torchrelay-join-1."
CHECKSUM_BYTES = 4
#: Text above this is no invitation; one of ours has some 250 characters.
LENGTH_LIMIT_CHARS = 4096
ADDRESSES_LIMIT = 16

RawKey = Annotated[bytes, msgspec.Meta(min_length=curve.KEY_BYTES, max_length=curve.KEY_BYTES)]


class NoInvitation(ValueError):
    """Text that is no invitation of ours; says what is wrong with it, and never shows it."""


class Invitation(msgspec.Struct, array_like=True, frozen=True):
    """Where the broker is and its public key, and the secret key that lets a newcomer in, both 32 bytes.

    `name` is what the newcomer will be called, "" where it may choose; `expires_at_ms` is wall clock time,
    None is never.
    """

    addresses: Annotated[tuple[f.Said, ...], msgspec.Meta(min_length=1, max_length=ADDRESSES_LIMIT)]
    broker_key: RawKey
    secret_key: RawKey
    role: f.MemberRole
    name: f.Name = ""
    expires_at_ms: f.Number | None = None

    def __repr__(self) -> str:
        return f"Invitation(role={self.role!r}, addresses={self.addresses!r})"

    def to_text(self) -> str:
        """Write it as one word of letters, digits, `-`, `_` and `.`."""
        content = msgspec.msgpack.encode(self)
        return PREFIX + base64.urlsafe_b64encode(content + _checksum(content)).rstrip(b"=").decode()


def parse(text: str) -> Invitation:
    """Read an invitation, whatever blanks and line breaks pasting has put around and into it.

    Raises NoInvitation.
    """
    text = "".join(text.split())
    if not text:
        raise NoInvitation("it is empty")
    if not text.startswith(PREFIX):
        kind = text.rpartition(".")[0] if text.startswith("torchrelay-join-") else ""
        newer = f": this version reads {PREFIX[:-1]}, it is {kind}" if kind else f" ({PREFIX}...)"
        raise NoInvitation(f"it doesn't begin as an invitation does{newer}")
    if len(text) > LENGTH_LIMIT_CHARS:
        raise NoInvitation(f"it has {len(text)} characters, more than an invitation can have")
    packed = text.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoInvitation("a character of it is none that an invitation has: copy it again") from error
    content, checksum = raw[:-CHECKSUM_BYTES], raw[-CHECKSUM_BYTES:]
    if checksum != _checksum(content):
        raise NoInvitation("a part of it is missing, or was changed: copy it again, to its end")
    try:
        return msgspec.msgpack.decode(content, type=Invitation)
    except msgspec.MsgspecError as error:
        raise NoInvitation("another version of torchrelay has made it") from error


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:CHECKSUM_BYTES]
