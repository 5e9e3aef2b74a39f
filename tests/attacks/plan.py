"""What an attack is told: what it is aimed at, how long it may go on, how much it may send.

Each attack runs in a process of its own (`attacker`), which gets this as JSON and answers in JSON.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

#: What all attackers of a run send together: what one address could over a network. Without a bound they and
#: the server would only compete for the same processors.
BYTES_PER_S = 50_000_000
MESSAGES_PER_S = 500
#: Beside the address that honest clients come from.
SOURCE = "127.0.0.66"
#: What an attacker may take of this machine's memory.
ATTACKER_MEMORY_BYTES = 4 << 30
#: How long an attack may go on behind its end before it is stopped.
OVERTIME_S = 20.0


class Target(msgspec.Struct, frozen=True):
    """A running server."""

    address: str
    broker_port: int
    #: Its model store; what an attacker puts there stands for what it had an operator download.
    store: str
    #: A folder of the attacker's own.
    scratch: str
    #: sha256 of an archive of many chunks.
    archive: str = ""
    archive_bytes: int = 0
    #: The id of the worker that answers honest requests.
    worker: int = 0
    #: The broker's public key, and secret keys of members that mean harm, in hex.
    broker_key: str = ""
    node_key: str = ""
    gateway_key: str = ""
    #: The key of a node that means none.
    probe_key: str = ""
    #: Secret keys of invitations: for any number of nodes, one that was used, one that has expired.
    invitation: str = ""
    used_invitation: str = ""
    expired_invitation: str = ""


class AttackRun(msgspec.Struct, frozen=True):
    """One attack on one server."""

    attack: str
    target: Target
    seconds: float
    bytes_per_s: float = BYTES_PER_S
    messages_per_s: float = MESSAGES_PER_S


class AttackReport(msgspec.Struct, frozen=True):
    """What an attacker has seen; `breaches` are what it got that nobody should."""

    text: str
    breaches: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attack:
    """One kind of attack. `run` gets an `attacker.Attacker`."""

    name: str
    #: What it does, in a few words, for `--list`.
    what: str
    run: Callable[..., None]
    seconds: float = 15.0
    #: Lines of the broker's config.properties.
    config: tuple[str, ...] = ()
    #: Further options of `torchrelay broker`.
    broker_options: tuple[str, ...] = ()
    #: Whether it is one of those that run side by side in `mixed`.
    is_mixed: bool = True
