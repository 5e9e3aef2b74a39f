"""Calls about nodes, gateways and invitations."""

from typing import Any

import msgspec
import pytest

from tests.cli import bodies, member_bodies
from torchrelay.client import member_calls as calls
from torchrelay.client.call_failures import UnreadableAnswer
from torchrelay.client.http_calls import Call, NoName, ReceivedAnswer


def answered(call: Call[Any], body: object) -> Any:
    return call.read(ReceivedAnswer("management", "http://a:1", 200, {}, [msgspec.json.encode(body)]))


def test_each_role_has_its_paths() -> None:
    assert answered(calls.members("node"), {"nodes": [bodies.member()]}) == (bodies.member(),)
    assert answered(calls.members("gateway"), {"gateways": []}) == ()
    made = (
        calls.member("gateway", "a/b"),
        calls.drain("n"),
        calls.revoke("node", "n"),
        calls.forget("gateway", "g"),
    )
    assert [(call.method, call.target, call.repeated) for call in made] == [
        ("GET", "/gateways/a%2Fb", "harmless"),
        ("POST", "/nodes/n/drain", "harmless"),
        ("POST", "/nodes/n/revoke", "harmful"),
        ("DELETE", "/gateways/g", "harmful"),
    ]


def test_an_invitation_says_what_it_is_to_be_and_comes_with_its_command() -> None:
    call = calls.invite("node", name="rack 3", models="res*", ttl_s=60)
    assert call.target == "/nodes/invitations?name=rack+3&models=res%2A&ttl=60&uses=1&ephemeral=false"
    invited = answered(call, member_bodies.invited())
    assert invited.command == f"torchrelay worker --join {member_bodies.text()}"
    with pytest.raises(UnreadableAnswer, match="invitation"):
        answered(call, member_bodies.invited(invitation="x; rm -rf /"))


def test_the_invitation_itself_is_not_sent_to_withdraw_it() -> None:
    with pytest.raises(NoName, match="secret"):
        calls.end_invitation("node", member_bodies.text())
