"""How nodes, gateways and invitations are printed: tables that fit 80 columns."""

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from torchrelay.cli.remote import rendering
from torchrelay.cli.remote.rendering import View
from torchrelay.shared import api_bodies
from torchrelay.shared.wire import invitations as join_texts
from torchrelay.shared.wire.fields import MemberRole

_WIDTHS = {"NODE": 26, "GATEWAY": 22, "NAME": 14, "MODELS": 12}


def members(found: Sequence[api_bodies.MemberBody], role: MemberRole) -> View:
    """Lay out the nodes, or the gateways."""
    if not found:
        return f"No {role} is here, and none has joined: `torchrelay {role}s invite` prints how one does."
    if role == "node":
        columns = ["NODE", "STATE", "WORKERS", "RUNNING", "LAST SEEN (UTC)"]
        rows = [
            [one.name, one.state, str(one.workers), str(one.jobs_running), _time(one.last_seen)]
            for one in found
        ]
    else:
        columns = ["GATEWAY", "STATE", "MANAGES", "LAST SEEN (UTC)", "KEY"]
        rows = [
            [one.name, one.state, _yes(one.may_manage), _time(one.last_seen), one.key or "none"]
            for one in found
        ]
    return rendering.make_table(columns, rows, widths=_WIDTHS)


def member(one: api_bodies.MemberBody, seen: api_bodies.FleetBody | None) -> View:
    """Lay out a node or gateway; of a node, its devices and workers as the fleet shows them."""
    facts = {
        "name": one.name,
        "state": one.state,
        "key": one.key or "none: on the broker's host it needs none",
        "revoked" if one.state == "revoked" else "joined": _time(one.since),
        "last seen": _time(one.last_seen),
        "models": one.models,
        "ephemeral": "forgotten ten minutes after it fell silent" if one.ephemeral else "",
        "manages": "models, keys and members" if one.may_manage else "",
    }
    parts: list[View] = [rendering.fact_list({name: text for name, text in facts.items() if text})]
    if seen is not None:
        parts += _on_node(one, seen)
    return rendering.one_below_the_other(parts)


def _on_node(one: api_bodies.MemberBody, seen: api_bodies.FleetBody) -> list[View]:
    parts: list[View] = [
        rendering.node_table([node])
        for node in seen.nodes
        if node.name == one.name and one.state != "revoked"
    ]
    rows = [
        (model.label, str(worker.id), worker.state, worker.device, str(worker.jobs_running))
        for model in seen.models
        for worker in model.workers
        if worker.node == one.name
    ]
    columns = ("MODEL", "WORKER", "STATE", "DEVICE", "RUNNING")
    return [*parts, rendering.make_table(columns, rows, widths={"MODEL": 36})] if rows else parts


def invitations(found: Sequence[api_bodies.InvitationBody], role: MemberRole) -> View:
    """Lay out the invitations."""
    if not found:
        return f"No invitation lets a {role} in: `torchrelay {role}s invite` makes one."
    columns = ["ID", "NAME", "EXPIRES (UTC)", "USES LEFT", "MODELS" if role == "node" else "MANAGES"]
    rows = [
        [
            one.id,
            one.name or "any",
            "never" if one.expires is UNSET else _time(one.expires),
            "any" if one.uses_left is UNSET else str(one.uses_left),
            (one.models or "all") if role == "node" else _yes(one.may_manage),
        ]
        for one in found
    ]
    return rendering.make_table(columns, rows, widths=_WIDTHS)


def advice(invited: api_bodies.InvitedBody, role: MemberRole, uses: int) -> str:
    """Say what to do with an invitation, and how to take it back."""
    where = ", ".join(join_texts.parse(invited.invitation).addresses)
    who = {0: "any number of hosts join", 1: "one host joins"}.get(uses, f"{uses} hosts join")
    until = "" if invited.expires is UNSET else f" until {_time(invited.expires)} UTC"
    return (
        f"Run this line on the new host, which has to reach {where}. It is a secret: {who} by it{until}.\n"
        f"`torchrelay {role}s list` shows who has joined, `torchrelay {role}s uninvite {invited.id}`"
        " withdraws it."
    )


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _time(text: str | UnsetType) -> str:
    return "" if text is UNSET else text[:19].replace("T", " ")
