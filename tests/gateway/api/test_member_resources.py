"""Nodes, gateways and invitations over REST: what is asked of the broker, and what is told of its answers."""

import json
import logging
from typing import Any
from urllib.parse import quote

import pytest

from tests.gateway.fakes import Gateway
from torchrelay.gateway.api.member_resources import INVITATION_LIMIT_BYTES
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import MemberRole

TEXT = "torchrelay-join-1.s3cret"
#: Names that hosts and operators give, of which some need care in a path.
ODD_NAMES = ["rack3", "rack 3", "100%", "ä?b#c", "a+b", "%2e%2e", "x;y=1,z", "🐇", "invitations2"]


def member(name: str = "rack3", role: MemberRole = "node", **more: Any) -> m.MemberFacts:
    return m.MemberFacts(name, role, **({"key": "0123456789ab", "state": "here"} | more))


def invitation(role: MemberRole = "node", **more: Any) -> m.InvitationFacts:
    facts: dict[str, Any] = {
        "invitation": "ba9876543210", "name": "", "models": "", "made_at_ms": 1_769_860_800_007,
        "expires_at_ms": None, "uses_left": None, "ephemeral": False, "may_manage": False,
    }  # fmt: skip
    return m.InvitationFacts(role=role, **(facts | more))


class Broker:
    """Knows some members, and does what it is asked."""

    def __init__(self, *members: m.MemberFacts, invitations: tuple[m.InvitationFacts, ...] = ()) -> None:
        self._members = members
        self._invitations = invitations
        self.gateway = Gateway(self._reply)

    def _reply(self, ask: Any) -> m.Message | errors.RelayError:
        match ask:
            case m.ReadMembers(number, role):
                ours = tuple(one for one in self._members if one.role == role)
                return m.MembersRead(number, ours, tuple(i for i in self._invitations if i.role == role))
            case m.Invite(number):
                return m.Invited(number, TEXT, "ba9876543210", 1_769_860_800_007)
            case m.EndInvitation(number):
                return m.InvitationEnded(number)
            case m.ChangeMember(number):
                return m.MemberChanged(number)
            case m.RotateBrokerKey(number):
                return m.BrokerKeyRotated(number, "ab" * 32)
        return errors.InternalError("not scripted")

    def changes(self) -> list[Any]:
        """What was asked for, without its number."""
        return [ask for ask in self.gateway.link.asked if not isinstance(ask, m.ReadMembers)]

    def manage(self, method: str, path: str, **more: Any) -> Any:
        return self.gateway.manage(method, path, **more)


def as_json(body: object) -> dict[str, Any]:
    return {"body": json.dumps(body).encode(), "headers": {"content-type": "application/json"}}


def test_nodes_are_listed_with_what_is_known_of_them() -> None:
    known = member(since_ms=1_769_860_800_007, seen_at_ms=1_769_860_801_000, models="resnet*", ephemeral=True,
                   workers=2, jobs_running=3)  # fmt: skip
    keyless = member("here", key="", may_manage=True)
    broker = Broker(known, keyless, member("g", "gateway"))
    assert broker.manage("GET", "/nodes").json == {
        "nodes": [
            {
                "name": "rack3", "state": "here", "workers": 2, "jobsRunning": 3, "key": "0123456789ab",
                "since": "2026-01-31T12:00:00.007Z", "lastSeen": "2026-01-31T12:00:01.000Z",
                "models": "resnet*", "ephemeral": True,
            },
            {"name": "here", "state": "here", "workers": 0, "jobsRunning": 0, "mayManage": True},
        ]
    }  # fmt: skip
    assert [one["name"] for one in broker.manage("GET", "/gateways").json["gateways"]] == ["g"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_can_be_shown_and_changed(name: str) -> None:
    broker = Broker(member(name), member("other"))
    path = "/nodes/" + quote(name, safe="")
    assert broker.manage("GET", path).json["name"] == name
    assert broker.manage("POST", path + "/drain").status_code == 202
    assert broker.manage("POST", path + "/resume").status_code == 200
    assert broker.manage("POST", path + "/revoke").status_code == 200
    assert broker.manage("DELETE", path).status_code == 200
    assert [(ask.role, ask.name, ask.change) for ask in broker.changes()] == [
        ("node", name, change) for change in ("drain", "resume", "revoke", "forget")
    ]


def test_of_two_with_one_name_the_one_that_has_joined_is_shown() -> None:
    broker = Broker(member(key=""), member(key="fedcba987654"))
    assert broker.manage("GET", "/nodes/rack3").json["key"] == "fedcba987654"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nodes/nobody"),
        ("DELETE", "/nodes/nobody"),
        ("POST", "/nodes/nobody/drain"),
        ("POST", "/nodes/nobody/resume"),
        ("POST", "/nodes/nobody/revoke"),
        ("GET", "/gateways/nobody"),
        ("POST", "/gateways/nobody/revoke"),
        ("GET", "/gateways/rack3"),
    ],
)
def test_a_name_that_nobody_has_is_404_and_changes_nothing(method: str, path: str) -> None:
    broker = Broker(member())
    answer = broker.manage(method, path)
    assert (answer.status_code, answer.json["type"]) == (404, "MemberNotFoundException")
    assert f"There is no {path.split('/')[1][:-1]} {path.split('/')[2]}" in answer.json["message"]
    assert broker.changes() == []


def test_only_nodes_drain() -> None:
    assert Broker(member("g", "gateway")).manage("POST", "/gateways/g/drain").status_code == 404


def test_an_invitation_is_told_to_whoever_asked_for_it_and_kept_by_nobody() -> None:
    broker = Broker()
    answer = broker.manage("POST", "/nodes/invitations")
    assert answer.json == {
        "id": "ba9876543210",
        "invitation": TEXT,
        "command": f"torchrelay worker --join {TEXT}",
        "expires": "2026-01-31T12:00:00.007Z",
    }
    assert "no-store" in answer.headers["cache-control"]
    (ask,) = broker.changes()
    assert (ask.role, ask.name, ask.models, ask.ttl_s, ask.uses) == ("node", "", "", 3600, 1)
    assert not ask.ephemeral
    of_gateway = broker.manage("POST", "/gateways/invitations").json
    assert of_gateway["command"] == f"torchrelay gateway --join {TEXT}"
    assert broker.changes()[1].may_manage


@pytest.mark.parametrize(
    "given",
    [
        {"path": "/nodes/invitations?name=r%203&models=a*&ttl=60&uses=1&ephemeral=true"},
        {
            "path": "/nodes/invitations",
            **as_json({"name": "r 3", "models": "a*", "ttl": 60, "uses": 1, "ephemeral": True}),
        },
    ],
)
def test_what_an_invitation_is_to_be_is_in_the_query_or_in_json(given: dict[str, Any]) -> None:
    broker = Broker()
    assert broker.manage("POST", **given).status_code == 200
    (ask,) = broker.changes()
    assert (ask.name, ask.models, ask.ttl_s, ask.uses, ask.ephemeral) == ("r 3", "a*", 60, 1, True)


def test_nought_is_for_ever_and_for_any_number() -> None:
    broker = Broker()
    broker.manage("POST", "/gateways/invitations?ttl=0&uses=0&manage=false")
    (ask,) = broker.changes()
    assert (ask.role, ask.ttl_s, ask.uses, ask.may_manage) == ("gateway", None, 0, False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"path": "/nodes/invitations?mdoels=a*"}, "mdoels"),
        ({"path": "/nodes/invitations?ttl=1h"}, "ttl"),
        ({"path": "/nodes/invitations?ttl=-1"}, "ttl"),
        ({"path": "/nodes/invitations?uses=99999999999"}, "uses"),
        ({"path": "/nodes/invitations?ephemeral=yes"}, "ephemeral"),
        ({"path": "/nodes/invitations?manage=true"}, "Only gateways"),
        ({"path": "/nodes/invitations?name=a&name=b"}, "twice"),
        ({"path": "/nodes/invitations?name=" + "a" * 201}, "name"),
        ({"path": "/nodes/invitations?ttl=60", **as_json({"uses": 2})}, "one of them"),
        ({"path": "/nodes/invitations", "body": b'{"uses": 2}'}, "content type"),
        ({"path": "/nodes/invitations", **as_json([])}, "object"),
        ({"path": "/nodes/invitations", **as_json({"uses": "2"})}, "uses"),
        (
            {
                "path": "/nodes/invitations",
                "body": b'{"name": "\\ud800"}',
                "headers": {"content-type": "application/json"},
            },
            "can't be made",
        ),
        (
            {
                "path": "/nodes/invitations",
                "body": b'{"name": "\xff"}',
                "headers": {"content-type": "application/json"},
            },
            "can't be made",
        ),
        ({"path": "/nodes/invitations", **as_json({"name": "a" * INVITATION_LIMIT_BYTES})}, "more than"),
    ],
)
def test_what_is_not_understood_makes_no_invitation(given: dict[str, Any], words: str) -> None:
    """One that lets in more than its maker meant is worse than none."""
    broker = Broker()
    answer = broker.manage("POST", **given)
    assert (answer.status_code, broker.changes()) == (400, [])
    assert words in answer.json["message"]


def test_invitations_are_listed_without_their_secret() -> None:
    broker = Broker(
        invitations=(
            invitation(name="rack3", models="a*", expires_at_ms=1_769_860_801_000, uses_left=1),
            invitation(ephemeral=True),
        )
    )
    first, second = broker.manage("GET", "/nodes/invitations").json["invitations"]
    assert first == {
        "id": "ba9876543210", "made": "2026-01-31T12:00:00.007Z", "expires": "2026-01-31T12:00:01.000Z",
        "usesLeft": 1, "name": "rack3", "models": "a*",
    }  # fmt: skip
    assert second == {"id": "ba9876543210", "made": "2026-01-31T12:00:00.007Z", "ephemeral": True}
    assert broker.manage("GET", "/gateways/invitations").json == {"invitations": []}


def test_an_invitation_is_withdrawn_by_its_id_and_by_nothing_shorter() -> None:
    broker = Broker(invitations=(invitation(),))
    for wrong in ("/nodes/invitations/ba98", "/gateways/invitations/ba9876543210"):
        answer = broker.manage("DELETE", wrong)
        assert (answer.status_code, answer.json["type"]) == (404, "InvitationNotFoundException")
    assert broker.changes() == []
    assert broker.manage("DELETE", "/nodes/invitations/ba9876543210").status_code == 200
    assert [ask.invitation for ask in broker.changes()] == ["ba9876543210"]


def test_the_brokers_next_key_is_told() -> None:
    assert Broker().manage("POST", "/broker/key/rotate").json == {"nextKey": "ab" * 32}


@pytest.mark.parametrize("path", ["/nodes/invitations", "/broker/key/rotate"])
def test_what_the_broker_refuses_is_passed_on(path: str) -> None:
    refused = errors.BadRequest("No other host can join by an invitation")
    answer = Gateway(lambda _: refused).manage("POST", path)
    assert (answer.status_code, answer.json["message"]) == (400, refused.message)


def test_an_invitation_is_in_no_log_and_in_no_answer_but_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    broker = Broker(invitations=(invitation(),))
    assert TEXT in broker.manage("POST", "/nodes/invitations").text
    for path in ("/nodes", "/nodes/invitations", "/gateways", "/fleet"):
        assert "s3cret" not in broker.manage("GET", path).text
    assert "s3cret" not in caplog.text
    assert "s3cret" not in repr(m.Invited(1, TEXT, "ba9876543210", None))
