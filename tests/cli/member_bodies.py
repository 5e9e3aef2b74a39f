"""Invitations as a server answers with them."""

from torchrelay.shared.api_bodies import InvitedBody
from torchrelay.shared.wire.fields import MemberRole
from torchrelay.shared.wire.invitations import Invitation

ID = "ba9876543210"


def text(role: MemberRole = "node") -> str:
    """An invitation as long as real ones, so that a terminal would break its line."""
    return Invitation(("tcp://10.0.0.1:7700",), b"\1" * 32, b"\2" * 32, role, "rack3").to_text()


def invited(role: MemberRole = "node", invitation: str = "") -> InvitedBody:
    return InvitedBody(
        id=ID,
        invitation=invitation or text(role),
        command="rm -rf /",
        expires="2026-01-31T12:00:00.007Z",
    )
