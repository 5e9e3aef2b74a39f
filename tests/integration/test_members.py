"""Members from end to end: invited, listed, drained, revoked and forgotten over REST and by commands."""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installation import command
from tests.integration.archives import make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually
from torchrelay.cli.start import broker_dialogue
from torchrelay.shared.wire import invitations, sockets
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.curve import Secured

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("members")
    with fleet(folder, make_store(folder / "models", "echo")) as made:
        config = folder / "config.properties"
        config.write_text("async_logging=true\n")
        more = ["--models", "echo.mar", "--slots", "1", "--ts-config", str(config)]
        made.serve("--broker", made.broker_address, *more)
        eventually(lambda: made.ready("echo"))
        yield made


def asked(server: Fleet, method: str, path: str, **parameters: Any) -> Any:  # Any: JSON
    answer = server.http.request(method, f"{server.management}{path}", params=parameters)
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


def typed(server: Fleet, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of ours against the server."""
    words = [command("torchrelay"), *arguments, "--management", server.management]
    return subprocess.run(words, cwd=server.folder, capture_output=True, text=True, timeout=120)


def join(text: str, name: str) -> m.Message:
    """Join by an invitation as `--join` does, and stay away afterwards."""
    invitation = invitations.parse(text)
    card = Secured(invitation.broker_key.hex(), sockets.pair_of(invitation.secret_key.hex()))
    enrol = m.Enrol(m.PROTOCOL_VERSION, sockets.new_key_pair().public, name)
    answer, _ = broker_dialogue.ask(invitation.addresses[0], enrol, secured=card, timeout_s=60)
    return answer


def states(server: Fleet, role: str = "nodes") -> dict[str, str]:
    return {one["name"]: one["state"] for one in asked(server, "GET", f"/{role}")[role]}


def test_a_host_is_invited_joins_is_revoked_and_forgotten(server: Fleet) -> None:
    name = "rack 3?"
    invited = asked(server, "POST", "/nodes/invitations", name=name, models="echo")
    (listed,) = asked(server, "GET", "/nodes/invitations")["invitations"]
    assert (listed["id"], listed["name"], listed["usesLeft"]) == (invited["id"], name, 1)
    assert isinstance(join(invited["invitation"], "its-own-name"), m.Enrolled)
    assert asked(server, "GET", "/nodes/invitations") == {"invitations": []}
    with pytest.raises(broker_dialogue.KeyRefused):
        join(invited["invitation"], "another")
    assert states(server)[name] == "away"
    assert "revoked" in typed(server, "nodes", "revoke", name).stdout
    assert states(server)[name] == "revoked"
    assert "forgotten" in typed(server, "nodes", "forget", name).stdout
    assert name not in states(server)
    missing = typed(server, "nodes", "revoke", name)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "nodes list" in missing.stderr


def test_a_printed_line_lets_in_until_it_is_withdrawn(server: Fleet) -> None:
    printed = typed(server, "gateways", "invite", "--ttl", "5m", "--uses", "2")
    (line,) = printed.stdout.splitlines()
    start, text = line.rsplit(" ", 1)
    assert start == "torchrelay gateway --join"
    assert isinstance(join(text, "edge"), m.Enrolled)
    (listed,) = asked(server, "GET", "/gateways/invitations")["invitations"]
    assert listed["usesLeft"] == 1
    assert listed["id"] in printed.stderr
    assert typed(server, "gateways", "uninvite", listed["id"]).returncode == 0
    with pytest.raises(broker_dialogue.KeyRefused):
        join(text, "edge-2")
    assert states(server, "gateways") == {"edge": "away", socket.gethostname(): "here"}


def test_a_node_drains_as_long_as_it_is_told_to(server: Fleet) -> None:
    name = asked(server, "GET", "/nodes")["nodes"][0]["name"]
    drained = typed(server, "nodes", "drain", name)
    assert drained.returncode == 0
    assert "echo 1.0 has no place elsewhere" in drained.stdout  # there is no other node
    assert "nodes invite" in drained.stdout
    assert "nothing is left on it" in drained.stdout
    assert states(server)[name] == "draining"
    assert "draining" in typed(server, "status").stdout
    shown = json.loads(typed(server, "nodes", "show", name, "--json").stdout)
    assert (shown["state"], shown["workers"]) == ("draining", 0)
    assert "takes work again" in typed(server, "nodes", "resume", name).stdout
    assert states(server)[name] == "here"
    eventually(lambda: server.ready("echo"))


def test_the_brokers_next_key_is_the_same_until_it_starts_anew(server: Fleet) -> None:
    keys = {asked(server, "POST", "/broker/key/rotate")["nextKey"] for _ in range(2)}
    assert len(keys) == 1
    assert keys.pop() in " ".join(typed(server, "broker-key", "rotate").stdout.split())


def test_an_invitations_secret_is_in_no_file_and_in_no_other_answer(server: Fleet) -> None:
    text = asked(server, "POST", "/nodes/invitations")["invitation"]
    secret = invitations.parse(text).secret_key
    for path in ("/nodes", "/nodes/invitations", "/gateways/invitations", "/fleet"):
        assert text not in server.http.get(server.management + path).text
    assert text not in server.http.get(server.metrics + "/metrics").text
    for file in server.folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert text.encode() not in content, file
            assert secret not in content, file
            assert secret.hex().encode() not in content, file


def test_a_broker_keeps_an_invitation_in_a_file_through_its_restarts(tmp_path: Path) -> None:
    with fleet(tmp_path, make_store(tmp_path / "models", "echo")) as made:
        file = tmp_path / "join" / "invitation"
        arguments = ["broker", "--address", made.broker_address, "--invitation-file", f"node={file}",
                     "--state-dir", str(tmp_path / "state"), "--model-store", str(made.store)]  # fmt: skip
        first = made.run(*arguments)
        eventually(file.exists)
        text = file.read_text()
        eventually(lambda: "broker.started" in made.output())
        assert join(text, "a") != join(text, "a")
        first.terminate()
        first.wait(15)
        made.run(*arguments)
        made.wait_until_up(
            made.run("gateway", "--broker", f"ipc://{tmp_path}/state/broker.sock", *made.listeners())
        )
        assert file.read_text() == text
        assert isinstance(join(text, "b"), m.Enrolled)
        nodes = asked(made, "GET", "/nodes")["nodes"]
        assert [one["state"] for one in nodes] == ["away"] * 3
        assert all(one["ephemeral"] for one in nodes)
