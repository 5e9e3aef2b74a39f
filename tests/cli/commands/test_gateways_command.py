"""The commands about gateways, where they differ from those about nodes."""

import json

from tests.cli import bodies, member_bodies
from tests.cli.command_line import ask
from tests.cli.fake_server import Answer, serving
from torchrelay.shared.api_bodies import GatewaysBody, InvitationBody, InvitationsBody, StatusBody

LONG = "a-host-with-a-rather-long-name.rack-17.example.internal"


def test_an_invitation_is_the_line_that_starts_a_gateway() -> None:
    with serving({"POST /gateways/invitations": (200, member_bodies.invited("gateway"))}) as server:
        result = ask(server, "gateways", "invite")
        ask(server, "gateways", "invite", "--no-manage", "--name", "edge")
    assert result.stdout == f"torchrelay gateway --join {member_bodies.text('gateway')}\n"
    assert f"gateways uninvite {member_bodies.ID}" in result.stderr
    assert server.asked[0].path == "/gateways/invitations?manage=true&ttl=3600&uses=1&ephemeral=false"
    assert "name=edge&manage=false" in server.asked[1].path


def test_gateways_are_listed_and_shown() -> None:
    gateways = (bodies.member(name=LONG, may_manage=True), bodies.member(name="b", state="away"))
    answers: dict[str, Answer] = {
        "GET /gateways": (200, GatewaysBody(gateways=gateways)),
        "GET /gateways/b": (200, gateways[1]),
        "GET /gateways/invitations": (200, InvitationsBody(invitations=(
            InvitationBody(id="0" * 12, made="2026-01-31T12:00:00.007Z", may_manage=True),))),
        "POST /gateways/b/revoke": (200, StatusBody(status="revoked")),
        "DELETE /gateways/b": (200, StatusBody(status="forgotten")),
        "DELETE /gateways/invitations/0": (200, StatusBody(status="withdrawn")),
    }  # fmt: skip
    with serving(answers) as server:
        listed = ask(server, "gateways", "list").output
        assert "away" in ask(server, "gateways", "show", "b").output
        assert "MANAGES" in ask(server, "gateways", "invitations").output
        assert ask(server, "gateways", "revoke", "b").output == "revoked\n"
        assert ask(server, "gateways", "forget", "b").output == "forgotten\n"
        assert ask(server, "gateways", "uninvite", "0").output == "withdrawn\n"
        assert len(json.loads(ask(server, "gateways", "list", "--json").stdout)) == 2
    assert max(map(len, listed.splitlines())) <= 80
    for words in ("MANAGES", "yes", "no", "away"):
        assert words in listed
