"""Identifiers; the one place that draws random ones."""

import secrets
import uuid


def routing_id(role: str) -> bytes:
    """Draw a ZeroMQ routing id: the role's first letter and 16 random bytes, new at each process start.

    Reusing an id across restarts would let libzmq refuse the newcomer while the old connection lingers.
    """
    return role[:1].encode() + secrets.token_bytes(16)


def request_id() -> str:
    """Draw an `x-request-id`, a UUIDv4 as TorchServe's are."""
    return str(uuid.uuid4())
