"""What each role may say to the broker, in one table. Pure.

A peer on a socket that asks for no key has the role that its hello claims, and may say what that role may.
"""

from typing import get_args

from torchrelay.broker.membership.members import Role
from torchrelay.shared.wire import messages as m

#: What changes something for others; for gateways that may manage.
MANAGING: frozenset[type[m.Message]] = frozenset(get_args(m.Change))

MAY_SAY: dict[Role, frozenset[type[m.Message]]] = {
    "newcomer": frozenset((m.Enrol,)),
    "gateway": frozenset(get_args(m.FromGateway)),
    "node": frozenset(get_args(m.FromNode)),
    "worker": frozenset(get_args(m.FromWorker)),
}


def may_say(role: Role, message: type[m.Message], *, may_manage: bool) -> bool:
    """Tell whether who has a role may say a message."""
    return message in MAY_SAY[role] and (may_manage or message not in MANAGING)
