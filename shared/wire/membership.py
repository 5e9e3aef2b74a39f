"""Messages about members: how hosts join by invitations, and what operators do about them.

Rules are those of `messages`, where they are found as well.
"""

from typing import Literal

from torchrelay.shared.wire import fields as f
from torchrelay.shared.wire.items import InvitationFacts, MemberFacts, Message


class Enrol(Message, frozen=True):
    """A newcomer that an invitation has let in says by which key it will come back, and how it is called."""

    protocol: f.Number32
    public_key: f.PublicKey
    name: f.Name


class Invite(Message, frozen=True):
    """Make an invitation, by which hosts join as `role`.

    `name` is what the host will be called, "" where it may choose. `models` is a pattern of the models that a
    node may hold, "" for all. `ttl_s` None never expires. `uses` is how many hosts it lets in, 0 any number.
    `ephemeral`: they are forgotten once they have been silent for long. `may_manage`: a gateway may register,
    scale and remove models, and ask for keys and members to be changed.
    """

    ask: f.Number
    role: f.MemberRole
    name: f.Name = ""
    models: f.Said = ""
    ttl_s: f.Number32 | None = 3600
    uses: f.Number32 = 1
    ephemeral: bool = False
    may_manage: bool = True
    proof: f.Name = ""


class EndInvitation(Message, frozen=True):
    """Withdraw an invitation, by as much of its public key as tells it from others."""

    ask: f.Number
    invitation: f.Name
    proof: f.Name = ""


class ReadMembers(Message, frozen=True):
    """Ask for the members of one role, for nodes that are here without being members, and for invitations."""

    ask: f.Number
    role: f.MemberRole


class ChangeMember(Message, frozen=True):
    """Do something about a node or gateway by its name.

    `revoke` its key, so that it is cut off and never let in again; `forget` it, as if it had never joined;
    have a node `drain`, so that it gets no new work and its workers are replaced elsewhere, or `resume`.
    """

    ask: f.Number
    role: f.MemberRole
    name: f.Name
    change: Literal["revoke", "forget", "drain", "resume"]
    proof: f.Name = ""


class RotateBrokerKey(Message, frozen=True):
    """Have the broker make its next key pair, and tell every member; it is used from its next start on."""

    ask: f.Number
    proof: f.Name = ""


class WorkerKey(Message, frozen=True):
    """The key by which a worker will come, which this node is about to start."""

    worker_id: f.WorkerId
    public_key: f.PublicKey


class Enrolled(Message, frozen=True):
    """The newcomer's key is known from now on, and on disk; `broker_keys` as in BrokerKeys."""

    name: f.Name
    broker_keys: tuple[f.PublicKey, ...]


class BrokerKeys(Message, frozen=True):
    """The public keys of the broker: the present one, then the one that it will have next."""

    keys: tuple[f.PublicKey, ...]


class Invited(Message, frozen=True):
    """An invitation as text, which is a secret, and as much of its public key as tells it from others."""

    ask: f.Number
    text: f.Prose
    invitation: f.Name
    expires_at_ms: f.Number | None

    def __repr__(self) -> str:
        return f"Invited(ask={self.ask}, invitation={self.invitation!r})"


class InvitationEnded(Message, frozen=True):
    """Nobody is let in by it any more."""

    ask: f.Number


class MembersRead(Message, frozen=True):
    """Members and invitations of one role."""

    ask: f.Number
    members: tuple[MemberFacts, ...]
    invitations: tuple[InvitationFacts, ...]


class MemberChanged(Message, frozen=True):
    """It is done, and on disk; a node that drains may still have work."""

    ask: f.Number


class BrokerKeyRotated(Message, frozen=True):
    """The broker's next public key."""

    ask: f.Number
    public_key: f.PublicKey
