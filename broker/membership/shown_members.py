"""Members and invitations as they are shown to people. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal

from torchrelay.broker.core.answers import Gateway
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.nodes import FleetNode
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.membership.members import Members
from torchrelay.broker.models.records import InvitationRecord
from torchrelay.shared.wire import curve
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import MemberRole


def members_read(
    ask: int,
    role: MemberRole,
    here: Iterable[FleetNode | Gateway],
    fleet: Fleet,
    members: Members,
    now: float,
) -> m.MembersRead:
    """Return the members of one role by their names, with those that are here without a key."""
    by_key: defaultdict[str | None, list[FleetNode | Gateway]] = defaultdict(list)
    for peer in here:
        by_key[curve.public_key_of(peer.peer)].append(peer)
    facts = []
    for member in members.of_role(role):
        key, peers = member.public_key, by_key[member.public_key]
        is_draining = role == "node" and member.name in members.draining
        workers = [worker for peer in peers for worker in fleet.of_node(peer.peer)]
        state: Literal["draining", "here"] = "draining" if is_draining else "here"
        facts.append(m.MemberFacts(
            member.name, role, curve.shown(key), state if peers else "away", member.since_ms,
            members.seen_at_ms(key), member.models, member.is_ephemeral, member.may_manage,
            len(workers), _running(workers),
        ))  # fmt: skip
    for name in {peer.name for peer in by_key[None]}:
        is_draining = role == "node" and name in members.draining
        peers = [peer for peer in by_key[None] if peer.name == name]  # several processes of a gateway
        workers = [worker for peer in peers for worker in fleet.of_node(peer.peer)]
        facts.append(m.MemberFacts(
            name, role, "", "draining" if is_draining else "here", may_manage=role == "gateway",
            workers=len(workers), jobs_running=_running(workers),
        ))  # fmt: skip
    facts += _revoked(role, members)
    invitations = tuple(_invitation(one) for one in members.open_invitations(role, now))
    return m.MembersRead(ask, tuple(sorted(facts, key=lambda one: one.name)), invitations)


def _running(workers: Iterable[FleetWorker]) -> int:
    return sum(len(lease.jobs) for worker in workers for lease in worker.leases)


def _revoked(role: MemberRole, members: Members) -> Iterator[m.MemberFacts]:
    for ended in members.revoked(role):
        yield m.MemberFacts(ended.name, role, curve.shown(ended.public_key), "revoked", ended.at_ms)


def _invitation(record: InvitationRecord) -> m.InvitationFacts:
    return m.InvitationFacts(
        curve.shown(record.public_key), record.role, record.name, record.models, record.made_at_ms,
        record.expires_at_ms, record.uses_left, record.is_ephemeral, record.may_manage,
    )  # fmt: skip
