"""How members and invitations change: one change after the other, durable before it counts. Pure."""

import logging
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import assert_never

from torchrelay.broker.core.effects import Effect, KeepBrokerKeys, Report, Send, Store
from torchrelay.broker.membership.members import Members
from torchrelay.broker.models.records import EndKeys, ForgetKeys, MemberChange, PutMember, SetDraining
from torchrelay.broker.models.running_changes import Caller
from torchrelay.shared import errors
from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire import curve, invitations
from torchrelay.shared.wire import messages as m

#: Newcomers and callers whose change waits for those before it.
WAITING_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Enrolling:
    """A newcomer that waits for its key to be known."""

    peer: bytes
    invitation_key: str
    enrol: m.Enrol


@dataclass(frozen=True, slots=True)
class Asked:
    """A caller that waits for a change; `invitation` is the pair that was made for an Invite."""

    caller: Caller
    ask: m.MemberChange
    pair: curve.KeyPair | None = None


#: None forgets those that have been silent for too long.
Request = Enrolling | Asked | None


@dataclass(slots=True, eq=False)
class OwnKeys:
    """The broker's own pairs: the present one, and the one that it will have from its next start on."""

    present: curve.KeyPair
    next: curve.KeyPair | None = None

    @property
    def public(self) -> tuple[str, ...]:
        """The public keys, the present one first."""
        return (self.present.public, *((self.next.public,) if self.next else ()))


@dataclass(slots=True, eq=False)
class MembershipChanges:
    """Takes changes one by one; `token` marks what is being stored by `store`."""

    members: Members
    #: None where nobody needs a key.
    broker_keys: OwnKeys | None
    #: Where other hosts reach the broker.
    addresses: tuple[str, ...]
    new_pair: Callable[[], curve.KeyPair] | None
    emit: Callable[[Effect], None]
    new_token: Callable[[], int]
    reply: Callable[[Caller, m.Message], None]
    refuse: Callable[[Caller, errors.RelayError], None]
    tell_members: Callable[[m.Message], None]
    #: Has the workers of a node replaced elsewhere, or lets it have some again.
    drain: Callable[[str, bool], None]
    #: Names of the nodes that are here.
    nodes_here: Callable[[], Collection[str]]
    _waiting: deque[Request] = field(default_factory=deque)
    #: What is being stored, and by which token it comes back.
    _storing: tuple[int, Request, MemberChange | None] | None = None

    def __post_init__(self) -> None:
        for name in self.members.draining:
            self.drain(name, True)

    def ask(self, caller: Caller, ask: m.MemberChange, now: float) -> None:
        """Begin what a caller asks for."""
        self._add(Asked(caller, ask), now)

    def enrol(self, peer: bytes, invitation_key: str, enrol: m.Enrol, now: float) -> None:
        """Begin to make a newcomer a member."""
        if not m.OLDEST_PROTOCOL_VERSION <= enrol.protocol <= m.PROTOCOL_VERSION:
            why = f"this broker speaks protocol {m.PROTOCOL_VERSION}, the newcomer {enrol.protocol}"
            self.emit(Send(peer, m.Leave(f"{why}: run the same torchrelay version everywhere")))
            return
        self._add(Enrolling(peer, invitation_key, enrol), now)

    def sweep(self, now: float) -> None:
        """Forget ephemeral members that have been silent for too long."""
        if self._storing is None and self.members.forgettable(now) is not None:
            self._add(None, now)

    def is_storing(self, token: int) -> bool:
        """Tell whether a token is of what is being stored here."""
        return self._storing is not None and self._storing[0] == token

    def stored(self, error: errors.RelayError | None, now: float) -> list[str]:
        """Take in what is on disk, or refuse it, and begin the next; return the keys that have ended."""
        assert self._storing is not None
        (_, request, change), self._storing = self._storing, None
        ended: list[str] = []
        if error:
            self._refuse(request, error)
        else:
            ended = self.members.apply(change, now) if change is not None else []
            if isinstance(change, SetDraining):
                self.drain(change.node, change.is_draining)
            for name in change.nodes if isinstance(change, ForgetKeys) else ():
                self.drain(name, False)
            self._report(change)
            self._answer(request, change)
        self._begin_next(now)
        return ended

    def _add(self, request: Request, now: float) -> None:
        if len(self._waiting) >= WAITING_LIMIT:
            why = f"{WAITING_LIMIT} changes of members are being made"
            self._refuse(request, errors.ServiceUnavailable("The broker is busy.", why))
            return
        self._waiting.append(request)
        self._begin_next(now)

    def _begin_next(self, now: float) -> None:
        while self._waiting and self._storing is None:
            request = self._waiting.popleft()
            try:
                self._begin(request, now)
            except errors.RelayError as error:
                self._refuse(request, error)

    def _begin(self, request: Request, now: float) -> None:
        match request:
            case Enrolling(_, key, enrol):
                if why_not := self.members.why_not(key, now):
                    raise errors.BadRequest(why_not)  # it was used up, or ended, since it was let in
                self._store(request, self.members.enrol(key, enrol, now))
            case Asked(_, m.RotateBrokerKey()):
                self._rotate(request)
            case Asked(caller, m.Invite() as ask):
                _, pair = self._keys_and_new_pair()
                self._store(Asked(caller, ask, pair), self.members.invite(ask, pair.public, now))
            case Asked(_, m.EndInvitation(invitation=shown)):
                self._store(request, self.members.end_invitation(shown, now))
            case Asked(_, m.ChangeMember() as ask):
                self._store(request, self._change_of(ask, now))
            case None:
                if silent := self.members.forgettable(now):
                    self._store(request, silent)

    def _change_of(self, ask: m.ChangeMember, now: float) -> MemberChange:
        match ask.change:
            case "revoke":
                return self.members.revoke(ask.role, ask.name, now)
            case "forget":
                return self.members.forget(ask.role, ask.name)
            case "drain" | "resume" if ask.role != "node":
                raise errors.BadRequest("Only nodes can be drained")
            case "drain" | "resume":
                is_known = ask.name in self.nodes_here() or ask.name in self.members.draining
                if not is_known and self.members.named("node", ask.name) is None:
                    raise errors.BadRequest(f"There is no node {quoted(ask.name)}")
                return SetDraining(ask.name, ask.change == "drain")
            case _:
                assert_never(ask.change)

    def _rotate(self, request: Request) -> None:
        keys, pair = self._keys_and_new_pair()
        if keys.next is None:
            keys.next = pair
            token = self.new_token()
            self._storing = token, request, None
            self.emit(KeepBrokerKeys(token, keys.present, keys.next))
        else:  # asked again before the next start: there is one already
            self._answer(request, None)

    def _keys_and_new_pair(self) -> tuple[OwnKeys, curve.KeyPair]:
        """Return the broker's keys, and a new pair. Raises BadRequest where no host can join by a key."""
        if self.broker_keys is None or self.new_pair is None or not self.addresses:
            raise errors.BadRequest(
                "No other host can join by an invitation: the broker listens on no tcp address with keys."
                " Start it with --address tcp://HOST:7700, and without --insecure"
            )
        return self.broker_keys, self.new_pair()

    def _store(self, request: Request, change: MemberChange) -> None:
        token = self.new_token()
        self._storing = token, request, change
        self.emit(Store(token, change))

    def _answer(self, request: Request, change: MemberChange | None) -> None:
        keys = self.broker_keys
        match request:
            case Enrolling(peer):
                assert isinstance(change, PutMember)
                assert keys is not None
                self.emit(Send(peer, m.Enrolled(change.member.name, keys.public)))
            case Asked(caller, m.Invite() as ask, curve.KeyPair() as pair):
                assert keys is not None
                invitation = self.members.invitations[pair.public]
                text = invitations.Invitation(
                    self.addresses, bytes.fromhex(keys.present.public),
                    bytes.fromhex(pair.secret), ask.role, ask.name, invitation.expires_at_ms,
                ).to_text()  # fmt: skip
                shown = curve.shown(pair.public)
                self.reply(caller, m.Invited(caller[1], text, shown, invitation.expires_at_ms))
            case Asked(caller, m.EndInvitation()):
                self.reply(caller, m.InvitationEnded(caller[1]))
            case Asked(caller, m.ChangeMember()):
                self.reply(caller, m.MemberChanged(caller[1]))
            case Asked(caller, m.RotateBrokerKey()):
                assert keys is not None
                assert keys.next is not None
                self.tell_members(m.BrokerKeys(keys.public))
                self.reply(caller, m.BrokerKeyRotated(caller[1], keys.next.public))

    def _refuse(self, request: Request, error: errors.RelayError) -> None:
        match request:
            case Enrolling(peer):
                self.emit(Send(peer, m.Leave(error.details or error.message)))
            case Asked(caller, ask):
                if isinstance(ask, m.RotateBrokerKey) and self.broker_keys is not None:
                    self.broker_keys.next = None
                self.refuse(caller, error)

    def _report(self, change: MemberChange | None) -> None:
        facts: dict[str, object]
        match change:
            case PutMember(member):
                facts = {"role": member.role, "member": member.name, "key": curve.shown(member.public_key)}
                self.emit(Report(logging.INFO, "member.joined", facts))
            case EndKeys(ended):
                for one in ended:
                    facts = {"role": one.role, "key": curve.shown(one.public_key), "reason": one.why}
                    self.emit(Report(logging.WARNING, "key.ended", facts))
            case ForgetKeys(keys):
                facts = {"keys": ", ".join(map(curve.shown, keys))}
                self.emit(Report(logging.INFO, "member.forgotten", facts))
