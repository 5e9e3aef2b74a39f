"""The commands about nodes: what they ask of a server, what they print, and what they ask a person first."""

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.cli import bodies, member_bodies
from tests.cli.command_line import ask, error, run
from tests.cli.fake_server import Answer, serving
from torchrelay.shared.api_bodies import InvitationBody, InvitationsBody, NodesBody, StatusBody

LONG = "a-host-with-a-rather-long-name.rack-17.example.internal"


def test_an_invitation_is_one_line_to_paste_and_advice_is_apart() -> None:
    with serving({"POST /nodes/invitations": (200, member_bodies.invited())}) as server:
        result = ask(server, "nodes", "invite")
    assert result.stdout == f"torchrelay worker --join {member_bodies.text()}\n"
    for words in ("tcp://10.0.0.1:7700", "secret", "one host joins by it until 2026-01-31 12:00:00 UTC",
                  f"nodes uninvite {member_bodies.ID}"):  # fmt: skip
        assert words in result.stderr
    assert server.asked[0].path == "/nodes/invitations?ttl=3600&uses=1&ephemeral=false"


def test_what_an_invitation_is_to_be_is_asked_for() -> None:
    with serving({"POST /nodes/invitations": (200, member_bodies.invited())}) as server:
        said = ["--name", "rack 3", "--models", "res*", "--ttl", "2d", "--uses", "0", "--ephemeral"]
        result = ask(server, "nodes", "invite", *said)
        assert json.loads(ask(server, "nodes", "invite", "--ttl", "never", "--json").stdout)["id"]
    assert "any number of hosts join" in result.stderr
    asked = "/nodes/invitations?name=rack+3&models=res%2A&ttl=172800&uses=0&ephemeral=true"
    assert server.asked[0].path == asked
    assert "ttl=0" in server.asked[1].path


@pytest.mark.parametrize("ttl", ["", "0", "1w", "-1h", "1.5h", "1h30m"])
def test_a_time_that_is_none_is_wrong_usage(ttl: str) -> None:
    result = run("nodes", "invite", "--ttl", ttl)
    assert result.exit_code == 2
    assert "never" in result.stderr


def test_what_a_server_says_is_no_command_for_a_shell() -> None:
    with serving(
        {"POST /nodes/invitations": (200, member_bodies.invited(invitation="x; rm -rf /"))}
    ) as server:
        result = ask(server, "nodes", "invite")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "can't be used here" in result.stderr


def test_a_list_fits_eighty_columns_and_tells_states() -> None:
    nodes = (
        bodies.member(name=LONG, workers=4096, jobs_running=65_536, last_seen="2026-01-31T12:00:00.007Z"),
        bodies.member(name="b", state="draining", key=""),
        bodies.member(name="c", state="revoked"),
    )
    with serving({"GET /nodes": (200, NodesBody(nodes=nodes))}) as server:
        result = ask(server, "nodes", "list")
        assert [one["state"] for one in json.loads(ask(server, "nodes", "list", "--json").stdout)] == [
            "here",
            "draining",
            "revoked",
        ]
    assert max(map(len, result.output.splitlines())) <= 80
    for words in ("a-host-with", "4096", "65536", "2026-01-31 12:00:00", "draining", "revoked"):
        assert words in result.output


def test_a_list_of_none_says_how_one_joins() -> None:
    with serving({"GET /nodes": (200, NodesBody(nodes=()))}) as server:
        assert "torchrelay nodes invite" in ask(server, "nodes", "list").output


def test_a_node_is_shown_with_its_devices_and_workers() -> None:
    model = bodies.model(workers=(bodies.fleet_worker(), bodies.fleet_worker(id=2, node="other")))
    answers: dict[str, Answer] = {
        "GET /nodes/rack%203": (200, bodies.member(name="rack 3", models="res*", ephemeral=True)),
        "GET /fleet": (200, bodies.fleet(model, nodes=(bodies.node(name="rack3"),))),
        "GET /nodes/rack3": (200, bodies.member(since="2026-01-31T12:00:00.007Z")),
    }
    with serving(answers) as server:
        odd = ask(server, "nodes", "show", "rack 3").output
        shown = ask(server, "nodes", "show", "rack3").output
        assert json.loads(ask(server, "nodes", "show", "rack3", "--json").stdout)["key"] == "0123456789ab"
    assert "res*" in odd
    assert "ten minutes" in odd
    for words in ("2026-01-31 12:00:00", "64 cores", "3/32", "m 1.0", "ready"):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_invitations_are_listed_and_withdrawn_by_their_ids() -> None:
    listed = (
        InvitationBody(id=member_bodies.ID, made="2026-01-31T12:00:00.007Z", name=LONG, models="m" * 60,
                       uses_left=1, expires="2026-02-01T12:00:00.007Z"),
        InvitationBody(id="0" * 12, made="2026-01-31T12:00:00.007Z", ephemeral=True),
    )  # fmt: skip
    answers: dict[str, Answer] = {
        "GET /nodes/invitations": (200, InvitationsBody(invitations=listed)),
        f"DELETE /nodes/invitations/{member_bodies.ID}": (200, StatusBody(status="withdrawn")),
    }
    with serving(answers) as server:
        shown = ask(server, "nodes", "invitations").output
        assert ask(server, "nodes", "uninvite", member_bodies.ID).output == "withdrawn\n"
    assert max(map(len, shown.splitlines())) <= 80
    for words in (member_bodies.ID, "2026-02-01 12:00:00", "never", "any", "all"):
        assert words in shown


def test_an_invitation_itself_is_not_sent_to_withdraw_it() -> None:
    """It would stand in the server's access log."""
    with serving({}) as server:
        result = ask(server, "nodes", "uninvite", member_bodies.text())
    assert (result.exit_code, server.asked) == (1, [])
    assert "nodes invitations" in result.stderr
    assert member_bodies.text() not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("revoke", "a/b"), "POST /nodes/a%2Fb/revoke"),
        (("resume", "a b"), "POST /nodes/a%20b/resume"),
        (("forget", "a?b"), "DELETE /nodes/a%3Fb"),
        (("drain", "100%", "--no-wait"), "POST /nodes/100%25/drain"),
    ],
)
def test_a_change_names_the_node_whatever_it_is_called(arguments: tuple[str, ...], asked: str) -> None:
    with serving({asked: (200, StatusBody(status="done"))}) as server:
        assert ask(server, "nodes", *arguments).output == "done\n"
        assert json.loads(ask(server, "nodes", *arguments, "--json").stdout) == {"status": "done"}


def test_a_name_that_is_empty_is_nobodys() -> None:
    with serving({}) as server:
        assert ask(server, "nodes", "forget", "").exit_code == 1
    assert server.asked == []


def test_an_unknown_node_is_one_line_and_advice() -> None:
    missing = error(404, "MemberNotFoundException", "There is no node x")
    with serving({"POST /nodes/x/revoke": missing}) as server:
        result = ask(server, "nodes", "revoke", "x")
    assert result.exit_code == 1
    assert result.stderr.startswith("torchrelay: There is no node x\n  `torchrelay nodes list`")


def test_a_drain_ends_when_nothing_is_left() -> None:
    answers: dict[str, Answer] = {
        "POST /nodes/rack3/drain": (202, StatusBody(status='Node "rack3" drains')),
        "GET /nodes/rack3": (200, bodies.member(state="draining")),
        "GET /fleet": (200, bodies.fleet()),
    }
    with serving(answers) as server:
        result = ask(server, "nodes", "drain", "rack3")
        as_json = ask(server, "nodes", "drain", "rack3", "--json")
    assert result.exit_code == 0
    assert "nothing is left on it" in result.stdout
    assert "nodes resume rack3" in result.stdout.replace("\n", " ")
    assert json.loads(as_json.stdout)["state"] == "draining"


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"\n", 1), (b"y\n", 0)])
@pytest.mark.parametrize("command", [["nodes", "revoke"], ["nodes", "forget"], ["gateways", "revoke"]])
def test_a_person_at_a_terminal_is_asked_first(answer: bytes, code: int, command: list[str]) -> None:
    done: Answer = (200, StatusBody(status="done"))
    path = f"/{command[0]}/x"
    keyboard, terminal = pty.openpty()
    try:
        with serving({f"POST {path}/revoke": done, f"DELETE {path}": done}) as server:
            os.write(keyboard, answer)
            ended = subprocess.run(
                [sys.executable, "-c", "from torchrelay.cli.main import main; main()", *command, "x"],
                stdin=terminal,
                capture_output=True,
                env={**os.environ, "TORCHRELAY_MANAGEMENT": server.url},
                timeout=60,
            )
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert ended.returncode == code
    assert b"[y/N]" in ended.stderr
    assert len(server.asked) == (code == 0)


def test_nobody_is_asked_who_said_yes() -> None:
    with serving({"POST /nodes/x/revoke": (200, StatusBody(status="done"))}) as server:
        assert ask(server, "nodes", "revoke", "x", "--yes").output == "done\n"
