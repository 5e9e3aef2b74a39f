"""Members, invitations and workers' keys: whom a key lets in, and as what. Pure.

A key is looked up again with each hello, and each change of it is durable before it counts. Why a key lets
nobody in any more is kept for a while, so that the log can say it.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from torchrelay.broker.models.records import (
    ENDED_KEYS_LIMIT,
    EndedKey,
    EndKeys,
    ForgetKeys,
    InvitationRecord,
    MemberChange,
    MemberRecord,
    PutInvitation,
    PutMember,
    SetDraining,
    Snapshot,
)
from torchrelay.shared import errors
from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import MemberRole

#: A real fleet has a tenth of them.
MEMBERS_LIMIT = INVITATIONS_LIMIT = 4096
#: How long an ephemeral member may be silent before it is forgotten.
EPHEMERAL_SILENCE_S = 600.0

Role = Literal["newcomer", "node", "gateway", "worker"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a key stands for: the name of a member or of a worker's node; `worker_id` is a worker's alone."""

    role: Role
    name: str
    models: str = ""
    may_manage: bool = False
    worker_id: int | None = None


class Members:
    """All keys that mean something; `wall_ms` turns a time of the core into milliseconds since 1970."""

    def __init__(self, snapshot: Snapshot, wall_ms: Callable[[float], int], *, now: float) -> None:
        self._wall_ms = wall_ms
        self.invitations = {record.public_key: record for record in snapshot.invitations}
        self.members = {record.public_key: record for record in snapshot.members}
        self._ended = {record.public_key: record for record in snapshot.ended_keys}
        #: Names of nodes that get no new work.
        self.draining = set(snapshot.draining)
        #: Worker and node by the worker's key; they end with the worker.
        self._workers: dict[str, tuple[int, str]] = {}
        #: When a member was last heard; the broker's start counts, so that silence before it doesn't.
        self._heard_at = dict.fromkeys(self.members, now)
        #: Keys that have been heard since the broker's start.
        self._was_heard: set[str] = set()

    # Reading

    def identity(self, public_key: str, now: float) -> Identity | None:
        """Return whom a key stands for now; None for nobody."""
        if member := self.members.get(public_key):
            return Identity(member.role, member.name, member.models, member.may_manage)
        if public_key in self._workers:
            worker_id, node_key = self._workers[public_key]
            node = self.members.get(node_key)
            return Identity("worker", node.name, worker_id=worker_id) if node else None
        invitation = self.invitations.get(public_key)
        if invitation is None or self._has_expired(invitation, now):
            return None
        return Identity("newcomer", invitation.name)

    def why_not(self, public_key: str, now: float) -> str:
        """Say why a key lets nobody in; empty where it does."""
        if self.identity(public_key, now) is not None:
            return ""
        if invitation := self.invitations.get(public_key):
            return f"the invitation{_for(invitation.name)} has expired"
        if ended := self._ended.get(public_key):
            return ended.why
        return "its key is unknown here: it never joined, or was forgotten"

    def of_role(self, role: MemberRole) -> list[MemberRecord]:
        """Return the members of a role by their names."""
        return sorted((one for one in self.members.values() if one.role == role), key=lambda one: one.name)

    def named(self, role: MemberRole, name: str) -> MemberRecord | None:
        """Return a member by its name."""
        return next((one for one in self.members.values() if (one.role, one.name) == (role, name)), None)

    def revoked(self, role: MemberRole) -> list[EndedKey]:
        """Return the members of a role whose keys have ended, and whose names nobody else has now."""
        taken = {one.name for one in self.members.values() if one.role == role}
        ended = (one for one in self._ended.values() if one.was_member and one.role == role)
        return [one for one in ended if one.name not in taken]

    def open_invitations(self, role: MemberRole, now: float) -> list[InvitationRecord]:
        """Return the invitations of a role that let somebody in, oldest first."""
        ours = (one for one in self.invitations.values() if one.role == role)
        return [one for one in ours if not self._has_expired(one, now)]

    def seen_at_ms(self, public_key: str) -> int | None:
        """Return when a member was last heard; None where that was before the broker's start."""
        return self._wall_ms(self._heard_at[public_key]) if public_key in self._was_heard else None

    # What a change is to be, for the registry; each raises what the caller is told

    def invite(self, ask: m.Invite, public_key: str, now: float) -> PutInvitation:
        """Return a new invitation. Raises BadRequest."""
        if len(self.invitations) >= INVITATIONS_LIMIT:
            raise errors.BadRequest(f"There are {INVITATIONS_LIMIT} invitations: withdraw some")
        if ask.name and ask.uses != 1:
            raise errors.BadRequest("A name is for one host: an invitation with a name has one use")
        if ask.name and not _is_usable(ask.name):
            raise errors.BadRequest(f"{quoted(ask.name)} can't be a name")
        if ask.models and ask.role != "node":
            raise errors.BadRequest("Only nodes hold models")
        at_ms = self._wall_ms(now)
        return PutInvitation(
            InvitationRecord(
                public_key,
                ask.role,
                ask.name,
                ask.models,
                at_ms,
                None if ask.ttl_s is None else at_ms + ask.ttl_s * 1000,
                ask.uses or None,
                ask.ephemeral,
                ask.may_manage and ask.role == "gateway",
            )
        )

    def end_invitation(self, shown_key: str, now: float) -> EndKeys:
        """Return the end of an invitation. Raises BadRequest."""
        found = [one for one in self.invitations.values() if one.public_key.startswith(shown_key)]
        if len(found) != 1 or not shown_key:
            raise errors.BadRequest(f"There is no invitation {quoted(shown_key)}")
        why = f"the invitation{_for(found[0].name)} has been withdrawn"
        return EndKeys((self._end(found[0], why, now),))

    def enrol(self, invitation_key: str, enrol: m.Enrol, now: float) -> PutMember:
        """Return a new member, whose invitation has a use less. Raises BadRequest."""
        invitation = self.invitations[invitation_key]
        if len(self.members) >= MEMBERS_LIMIT:
            raise errors.BadRequest(f"There are {MEMBERS_LIMIT} members: forget some")
        if enrol.public_key in self._ended or self._means_something_else(enrol.public_key, invitation):
            raise errors.BadRequest("This key has been used for something else: make another")
        member = MemberRecord(
            enrol.public_key,
            invitation.role,
            invitation.name or self._free_name(invitation.role, enrol.name, enrol.public_key),
            invitation.models,
            self._wall_ms(now),
            invitation.is_ephemeral,
            invitation.may_manage,
        )
        ended = []
        if invitation.uses_left == 1:
            why = f"the invitation{_for(invitation.name)} has been used, by {member.name}"
            ended.append(self._end(invitation, why, now))
        if (former := self.named(member.role, member.name)) and former.public_key != member.public_key:
            ended.append(self._end(former, f"{former.name} has joined anew with another key", now))
        return PutMember(member, invitation_key, tuple(ended))

    def revoke(self, role: MemberRole, name: str, now: float) -> EndKeys:
        """Return the end of a member's key. Raises BadRequest."""
        member = self._known(role, name)
        return EndKeys((self._end(member, f"the {role} {name} has been revoked", now),))

    def forget(self, role: MemberRole, name: str) -> ForgetKeys:
        """Return that a member, or one that was revoked, is forgotten. Raises BadRequest."""
        ended = [one for one in self._ended.values() if (one.role, one.name) == (role, name)]
        keys = [one.public_key for one in ended if one.was_member]
        if (member := self.named(role, name)) is not None or not keys:
            keys.append((member or self._known(role, name)).public_key)
        return ForgetKeys(tuple(keys), (name,) if role == "node" else ())

    def forgettable(self, now: float) -> ForgetKeys | None:
        """Return which ephemeral members are to be forgotten, having been silent; None where none is."""
        ephemeral = [one for one in self.members.values() if one.is_ephemeral]
        silent = [one for one in ephemeral if now - self._heard_at[one.public_key] > EPHEMERAL_SILENCE_S]
        names = tuple(one.name for one in silent if one.role == "node")
        return ForgetKeys(tuple(one.public_key for one in silent), names) if silent else None

    # What has become durable, or is not to be

    def apply(self, change: MemberChange, now: float) -> list[str]:
        """Take in what is on disk; return the keys that let nobody in any more, those of workers as well."""
        match change:
            case PutInvitation(invitation):
                self.invitations[invitation.public_key] = invitation
            case PutMember(member, key, ended):
                used = self.invitations.get(key)
                if used is not None and used.uses_left is not None:
                    self.invitations[key] = replace(used, uses_left=used.uses_left - 1)
                self.members[member.public_key] = member
                self._heard_at[member.public_key] = now
                # Whoever came by the invitation is to hear that it is in, and can do nothing more.
                return [gone for gone in self._drop(ended) if gone != key]
            case EndKeys(ended):
                return self._drop(ended)
            case ForgetKeys(keys, nodes):
                self.draining.difference_update(nodes)
                for key in keys:
                    self._ended.pop(key, None)
                return [gone for key in keys for gone in self._remove(key)]
            case SetDraining(node, is_draining):
                (self.draining.add if is_draining else self.draining.discard)(node)
            case _:
                assert_never(change)
        return []

    def heard(self, public_key: str, now: float) -> None:
        """Note that a member lives."""
        if public_key in self.members:
            self._heard_at[public_key] = now
            self._was_heard.add(public_key)

    def add_worker(self, public_key: str, worker_id: int, node_key: str) -> bool:
        """Let a worker in that a node is about to start; False where the key means somebody else."""
        known = self._workers.get(public_key)
        if public_key in self.members or public_key in self.invitations or public_key in self._ended:
            return False
        if known is not None and known != (worker_id, node_key):
            return False
        self._workers[public_key] = worker_id, node_key
        return True

    def worker_keys(self, node_key: str) -> list[str]:
        """Return the keys of a node's workers."""
        return [key for key, (_, node) in self._workers.items() if node == node_key]

    def remove_worker(self, worker_id: int, node_key: str) -> None:
        """Let a worker in no more: its process has ended."""
        for key in [key for key, known in self._workers.items() if known == (worker_id, node_key)]:
            del self._workers[key]

    def keep_workers(self, worker_ids: Collection[int], node_key: str) -> None:
        """Let only these workers of a node in: it holds no others."""
        for key in self.worker_keys(node_key):
            if self._workers[key][0] not in worker_ids:
                del self._workers[key]

    def _has_expired(self, invitation: InvitationRecord, now: float) -> bool:
        return invitation.expires_at_ms is not None and self._wall_ms(now) >= invitation.expires_at_ms

    def _means_something_else(self, public_key: str, invitation: InvitationRecord) -> bool:
        """Tell whether a key is another's; a newcomer that missed the answer may say it again."""
        member = self.members.get(public_key)
        is_again = member is not None and member.role == invitation.role
        return (member is not None and not is_again) or public_key in (*self.invitations, *self._workers)

    def _free_name(self, role: MemberRole, wanted: str, public_key: str) -> str:
        """Return a name that no other member has: the newcomer's own, or that with the start of its key."""
        others = (one for one in self.members.values() if one.public_key != public_key)
        taken = {one.name for one in others if one.role == role}
        name = wanted if _is_usable(wanted) else role
        return f"{name}-{public_key[:8]}" if name in taken else name

    def _known(self, role: MemberRole, name: str) -> MemberRecord:
        member = self.named(role, name)
        if member is None:
            raise errors.BadRequest(f"No {role} {quoted(name)} has joined by an invitation")
        return member

    def _end(self, of: InvitationRecord | MemberRecord, why: str, now: float) -> EndedKey:
        was_member = isinstance(of, MemberRecord)
        return EndedKey(of.public_key, of.role, of.name, was_member, why, self._wall_ms(now))

    def _drop(self, ended: tuple[EndedKey, ...]) -> list[str]:
        gone = [key for one in ended for key in self._remove(one.public_key)]
        self._ended |= {one.public_key: one for one in ended}
        while len(self._ended) > ENDED_KEYS_LIMIT:
            del self._ended[next(iter(self._ended))]
        return gone

    def _remove(self, public_key: str) -> list[str]:
        self.invitations.pop(public_key, None)
        self.members.pop(public_key, None)
        self._heard_at.pop(public_key, None)
        self._was_heard.discard(public_key)
        of_workers = self.worker_keys(public_key)
        for worker_key in of_workers:
            del self._workers[worker_key]
        return [public_key, *of_workers]


def _is_usable(name: str) -> bool:
    """Tell whether a name can be shown, and be a part of a path in which `invitations` are something else."""
    is_path = "/" in name or name in (".", "..", "invitations")
    return bool(name.strip()) and name == name.strip() and name.isprintable() and not is_path


def _for(name: str) -> str:
    return f" for {name}" if name else ""
