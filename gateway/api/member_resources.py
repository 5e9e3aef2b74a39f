"""The management API about members: nodes and gateways, and the invitations by which they join.

An invitation is a secret: it is in the answer to whoever asked for it, and in nothing else.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec
from falcon.asgi import Response
from msgspec import UNSET, UnsetType

from torchrelay.gateway import auth
from torchrelay.gateway.api import responses
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.api.management import UndescribedResource
from torchrelay.gateway.calls.parameters import query_pairs
from torchrelay.gateway.http.standard_responses import JSON
from torchrelay.shared import api_bodies, clock, errors
from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import MemberRole

#: Of an invitation's parameters in JSON, which are few.
INVITATION_LIMIT_BYTES = 64 * 1024

#: The command by which a host joins.
_COMMANDS: dict[MemberRole, str] = {"node": "worker", "gateway": "gateway"}


@dataclass(eq=False)
class MembersResource(UndescribedResource):
    """Base of the resources of one role: `/nodes`, or `/gateways`."""

    _role: MemberRole

    async def _read(self) -> m.MembersRead:
        return await self._link.ask(m.ReadMembers(0, self._role), m.MembersRead)

    async def _member(self, name: str) -> m.MemberFacts:
        """Return a node or gateway by its name, one that has joined first. Raises MemberNotFound."""
        named = [facts for facts in (await self._read()).members if facts.name == name]
        if not named:
            raise errors.MemberNotFound(f"There is no {self._role} {quoted(name)}")
        return max(named, key=lambda facts: bool(facts.key))


class MemberListResource(MembersResource):
    """`/nodes` and `/gateways`."""

    async def on_get(self, _req: GatewayRequest, resp: Response) -> None:
        """List them by their names."""
        members = tuple(map(_member_body, (await self._read()).members))
        of_role = (
            api_bodies.NodesBody(nodes=members)
            if self._role == "node"
            else api_bodies.GatewaysBody(gateways=members)
        )
        responses.answer(resp, of_role)


class MemberResource(MembersResource):
    """`/nodes/{name}` and `/gateways/{name}`."""

    async def on_get(self, _req: GatewayRequest, resp: Response, name: str) -> None:
        """Show one of them."""
        responses.answer(resp, _member_body(await self._member(name)))

    async def on_delete(self, req: GatewayRequest, resp: Response, name: str) -> None:
        """Forget it, as if it had never joined."""
        await self._member(name)
        ask = m.ChangeMember(0, self._role, name, "forget", auth.proof_of(req.auth))
        await self._link.ask(ask, m.MemberChanged)
        responses.answer_status(resp, f'{self._role.capitalize()} "{name}" is forgotten')


@dataclass(eq=False)
class MemberChangeResource(MembersResource):
    """`/nodes/{name}/drain` and the like."""

    _change: Literal["revoke", "drain", "resume"]

    async def on_post(self, req: GatewayRequest, resp: Response, name: str) -> None:
        """Have it changed; a node that drains may have work for a while yet."""
        await self._member(name)
        ask = m.ChangeMember(0, self._role, name, self._change, auth.proof_of(req.auth))
        await self._link.ask(ask, m.MemberChanged)
        became = {
            "revoke": "is revoked: it is cut off, and its key lets nobody in any more",
            "drain": "drains: it gets no new work",
            "resume": "takes work again",
        }[self._change]
        status = 202 if self._change == "drain" else 200
        responses.answer_status(resp, f'{self._role.capitalize()} "{name}" {became}', status)


class InvitationListResource(MembersResource):
    """`/nodes/invitations` and `/gateways/invitations`."""

    async def on_get(self, _req: GatewayRequest, resp: Response) -> None:
        """List those that let somebody in; none can be used by what is told here."""
        found = tuple(map(_invitation_body, (await self._read()).invitations))
        responses.answer(resp, api_bodies.InvitationsBody(invitations=found))

    async def on_post(self, req: GatewayRequest, resp: Response) -> None:
        """Make an invitation; the answer is the only place where it is told."""
        body = await req.read_body(self._config.max_request_size, self._link)
        wanted = _wanted(bytes(body), req.content_type, req.query_string)
        if self._role == "node" and wanted.manage is not UNSET:
            raise errors.BadRequest("Only gateways can manage.")
        ask = m.Invite(
            0,
            self._role,
            wanted.name,
            wanted.models,
            wanted.ttl or None,
            wanted.uses,
            wanted.ephemeral,
            wanted.manage is not False,
            auth.proof_of(req.auth),
        )
        invited = await self._link.ask(ask, m.Invited)
        made = api_bodies.InvitedBody(
            id=invited.invitation,
            invitation=invited.text,
            command=f"torchrelay {_COMMANDS[self._role]} --join {invited.text}",
            expires=_time(invited.expires_at_ms),
        )
        responses.answer(resp, made)


class InvitationResource(MembersResource):
    """`/nodes/invitations/{invitation}` and the like."""

    async def on_delete(self, req: GatewayRequest, resp: Response, invitation: str) -> None:
        """Withdraw it: nobody is let in by it any more."""
        known = (await self._read()).invitations
        if not any(facts.invitation == invitation for facts in known):
            raise errors.InvitationNotFound(f"There is no invitation {quoted(invitation)} for {self._role}s")
        ask = m.EndInvitation(0, invitation, auth.proof_of(req.auth))
        await self._link.ask(ask, m.InvitationEnded)
        responses.answer_status(resp, f"Invitation {invitation} is withdrawn")


class BrokerKeyResource(UndescribedResource):
    """`/broker/key/rotate`."""

    async def on_post(self, req: GatewayRequest, resp: Response) -> None:
        """Have the broker make its next key pair, and tell all members."""
        rotated = await self._link.ask(m.RotateBrokerKey(0, auth.proof_of(req.auth)), m.BrokerKeyRotated)
        responses.answer(resp, api_bodies.BrokerKeyBody(next_key=rotated.public_key))


def _wanted(body: bytes, content_type: str | None, query: str) -> api_bodies.InvitationRequestBody:
    """Read what an invitation is to be, and nothing leniently: what is overlooked lets too many in."""
    is_json = (content_type or "").split(";", 1)[0].strip().lower() == JSON
    if body and not is_json:
        raise errors.BadRequest(f"The body's content type is not {JSON}.")
    if body and query:
        raise errors.BadRequest("Parameters are in the query and in a body: one of them is too many.")
    if len(body) > INVITATION_LIMIT_BYTES:
        raise errors.BadRequest(f"The JSON body has more than {INVITATION_LIMIT_BYTES} bytes.")
    try:
        if body:
            return msgspec.json.decode(body, type=api_bodies.InvitationRequestBody)
        pairs = query_pairs(query)
        given = dict(pairs)
        if len(given) < len(pairs):
            raise errors.BadRequest("A parameter comes twice.")
        return msgspec.convert(given, api_bodies.InvitationRequestBody, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise errors.BadRequest(f"The invitation can't be made: {quoted(error)}.") from error


def _member_body(facts: m.MemberFacts) -> api_bodies.MemberBody:
    return api_bodies.MemberBody(
        name=facts.name,
        state=facts.state,
        workers=facts.workers,
        jobs_running=facts.jobs_running,
        key=facts.key,
        since=_time(facts.since_ms),
        last_seen=_time(facts.seen_at_ms),
        models=facts.models,
        ephemeral=facts.ephemeral,
        may_manage=facts.may_manage,
    )


def _invitation_body(facts: m.InvitationFacts) -> api_bodies.InvitationBody:
    return api_bodies.InvitationBody(
        id=facts.invitation,
        made=clock.iso(facts.made_at_ms),
        expires=_time(facts.expires_at_ms),
        uses_left=UNSET if facts.uses_left is None else facts.uses_left,
        name=facts.name,
        models=facts.models,
        ephemeral=facts.ephemeral,
        may_manage=facts.may_manage,
    )


def _time(at_ms: int | None) -> str | UnsetType:
    return UNSET if at_ms is None else clock.iso(at_ms)
