"""Curve keys by which parts know each other on tcp, and the ids of peers that have one. Pure.

A part is known by its public key, whatever it says of itself. Keys are 32 bytes: raw where zmq has them, in
hex elsewhere. `sockets` makes pairs of them.
"""

from dataclasses import dataclass, field

KEY_BYTES = 32
#: Characters of a public key by which people tell keys apart.
SHOWN_CHARS = 12
#: What the broker's ids of peers with a key begin with; no id that a peer chooses for itself does.
_SECURED = b"\0"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A public key and its secret one, in hex."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Secured:
    """What a part dials with: the broker's public key, and a pair of its own."""

    broker_key: str
    own: KeyPair


def shown(public_key: str) -> str:
    """Return as much of a public key as tells it from others."""
    return public_key[:SHOWN_CHARS]


def secured_peer(public_key: str, session: bytes) -> bytes:
    """Return the id of a peer: its key, and what tells one start of it from the next."""
    return _SECURED + bytes.fromhex(public_key) + session


def is_reserved(routing_id: bytes) -> bool:
    """Tell whether an id that a peer without a key has chosen could be taken for one of a peer with a key."""
    return len(routing_id) > KEY_BYTES and routing_id.startswith(_SECURED)


def public_key_of(peer: bytes) -> str | None:
    """Return the public key of a peer; None for one on a socket that asks for none."""
    return peer[1 : 1 + KEY_BYTES].hex() if is_reserved(peer) else None
