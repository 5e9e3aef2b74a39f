"""The calls of the management API about nodes and gateways, and the invitations by which they join. Pure."""

import msgspec

from torchrelay.client.call_failures import UnreadableAnswer
from torchrelay.client.http_calls import Call, NoName, ReceivedAnswer, decode, management, of_json
from torchrelay.shared.api_bodies import (
    GatewaysBody,
    InvitationBody,
    InvitationsBody,
    InvitedBody,
    MemberBody,
    NodesBody,
    StatusBody,
)
from torchrelay.shared.wire.fields import MemberRole

#: What newcomers run.
_COMMANDS: dict[MemberRole, str] = {"node": "worker", "gateway": "gateway"}


def members(role: MemberRole) -> Call[tuple[MemberBody, ...]]:
    """List the nodes, or the gateways."""
    if role == "node":
        return management("GET", "nodes", read=lambda answer: decode(answer, NodesBody).nodes)
    return management("GET", "gateways", read=lambda answer: decode(answer, GatewaysBody).gateways)


def member(role: MemberRole, name: str) -> Call[MemberBody]:
    """Read how a node or gateway is."""
    return management("GET", f"{role}s", name, read=of_json(MemberBody))


def drain(node: str) -> Call[StatusBody]:
    """Give a node no new work; what runs there ends, and its workers are started elsewhere."""
    return management("POST", "nodes", node, "drain", read=of_json(StatusBody), repeated="harmless")


def resume(node: str) -> Call[StatusBody]:
    """Give a node that drains work again."""
    return management("POST", "nodes", node, "resume", read=of_json(StatusBody), repeated="harmless")


def revoke(role: MemberRole, name: str) -> Call[StatusBody]:
    """Cut a node or gateway off at once, and never let its key in again."""
    return management("POST", f"{role}s", name, "revoke", read=of_json(StatusBody))


def forget(role: MemberRole, name: str) -> Call[StatusBody]:
    """Forget a node or gateway that is gone, as if it had never joined."""
    return management("DELETE", f"{role}s", name, read=of_json(StatusBody))


def invitations(role: MemberRole) -> Call[tuple[InvitationBody, ...]]:
    """List the invitations that let a node or gateway in, without what is secret of them."""
    return management(
        "GET", f"{role}s", "invitations", read=lambda answer: decode(answer, InvitationsBody).invitations
    )


def invite(
    role: MemberRole,
    *,
    name: str | None = None,
    models: str | None = None,
    manage: bool | None = None,
    ttl_s: int = 3600,
    uses: int = 1,
    ephemeral: bool = False,
) -> Call[InvitedBody]:
    """Make an invitation, and the command that the new host runs; both are secrets.

    `models` is a pattern of what a node may hold, `manage` says whether a gateway may change anything; 0 for
    `ttl_s` and `uses` is without end.
    """
    query = {
        "name": name,
        "models": models,
        "manage": manage,
        "ttl": ttl_s,
        "uses": uses,
        "ephemeral": ephemeral,
    }
    return management(
        "POST", f"{role}s", "invitations", read=lambda answer: _invited(answer, role), query=query
    )


def end_invitation(role: MemberRole, invitation_id: str) -> Call[StatusBody]:
    """Withdraw an invitation by its id; who has joined stays. Raises NoName for the invitation itself."""
    if invitation_id.startswith("torchrelay-join-"):
        # Servers, and what is between, log what is asked.
        raise NoName("this is the invitation itself, which is a secret: name it by its id")
    return management("DELETE", f"{role}s", "invitations", invitation_id, read=of_json(StatusBody))


def _invited(answer: ReceivedAnswer, role: MemberRole) -> InvitedBody:
    from torchrelay.shared.wire import invitations as invitation_texts  # PERF: 3 ms

    invited = decode(answer, InvitedBody)
    try:
        text = invitation_texts.parse(invited.invitation).to_text()
    except invitation_texts.NoInvitation as error:
        raise UnreadableAnswer(f"the server's invitation can't be used here: {error}") from error
    # Written here, of what has no other characters than it may have, since somebody's shell will run it.
    command = f"torchrelay {_COMMANDS[role]} --join {text}"
    return msgspec.structs.replace(invited, invitation=text, command=command)
