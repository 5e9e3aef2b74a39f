"""What the commands about nodes and gateways ask of a server."""

from dataclasses import dataclass

import msgspec

from torchrelay.cli.faults import Fault
from torchrelay.cli.remote.client import RestClient, decode, path_of
from torchrelay.shared.api_bodies import (
    GatewaysBody,
    InvitationBody,
    InvitationsBody,
    InvitedBody,
    MemberBody,
    NodesBody,
    StatusBody,
)
from torchrelay.shared.wire import invitations
from torchrelay.shared.wire.fields import MemberRole

#: What newcomers run.
_COMMANDS: dict[MemberRole, str] = {"node": "worker", "gateway": "gateway"}


@dataclass(frozen=True)
class MemberCalls:
    """The calls about the members of a role."""

    client: RestClient
    role: MemberRole

    def members(self) -> tuple[MemberBody, ...]:
        """Read all of them."""
        answer = self.client.call("GET", self._path())
        return (
            decode(answer, NodesBody).nodes if self.role == "node" else decode(answer, GatewaysBody).gateways
        )

    def member(self, name: str) -> MemberBody:
        """Read one."""
        return decode(self.client.call("GET", self._path(name)), MemberBody)

    def change(self, name: str, change: str) -> StatusBody:
        """Have one revoked, drained or resumed."""
        return decode(self.client.call("POST", self._path(name, change)), StatusBody)

    def forget(self, name: str) -> StatusBody:
        """Have one forgotten."""
        return decode(self.client.call("DELETE", self._path(name)), StatusBody)

    def invitations(self) -> tuple[InvitationBody, ...]:
        """Read the invitations that let somebody in."""
        return decode(self.client.call("GET", self._path("invitations")), InvitationsBody).invitations

    def invite(self, **wanted: object) -> InvitedBody:
        """Have an invitation made."""
        invited = decode(self.client.call("POST", self._path("invitations"), wanted), InvitedBody)
        try:
            text = invitations.parse(invited.invitation).to_text()
        except invitations.NoInvitation as error:
            raise Fault(f"the server's invitation can't be used here: {error}") from error
        # Written here, of what has no other characters than it may have, since somebody's shell will run it.
        command = f"torchrelay {_COMMANDS[self.role]} --join {text}"
        return msgspec.structs.replace(invited, invitation=text, command=command)

    def end_invitation(self, invitation: str) -> StatusBody:
        """Have an invitation withdrawn; the invitation itself isn't sent, since servers log what is asked."""
        if invitation.startswith("torchrelay-join-"):
            raise Fault(
                "this is the invitation itself, which is a secret: name it by its id"
                f"\n`torchrelay {self.role}s invitations` shows the ids"
            )
        return decode(self.client.call("DELETE", self._path("invitations", invitation)), StatusBody)

    def _path(self, *segments: str) -> str:
        # An empty segment would be left out, and the path be another's.
        if not all(segments):
            raise Fault(f"a {self.role} has a name: `torchrelay {self.role}s list` shows them")
        return path_of(f"{self.role}s", *segments)
