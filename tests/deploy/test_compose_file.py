"""compose.yaml and the Dockerfiles: every command in them is one that our CLI accepts."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from tests.deploy.locks import locked
from torchrelay.cli.commands import options
from torchrelay.cli.main import app
from torchrelay.cli.start import secrets_file
from torchrelay.gateway.app import browser_checks
from torchrelay.shared.settings import GatewaySettings, environment
from torchrelay.shared.torchserve import config_parsers

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]  # a compose file's values are of every type
#: Options that name a folder which is written to.
WRITTEN = ("--state-dir", "--cache-dir", "--model-store")
DOCKERFILES = sorted((ROOT / "deploy").glob("Dockerfile.*"))


def accept(command: list[str]) -> str:
    """Parse a command line as the CLI would, without running it; return the subcommand's name."""
    assert command[0] == "torchrelay"
    group: Any = typer.main.get_command(app)  # typer's own classes differ between its versions
    context = group.make_context("torchrelay", command[1:])
    name, subcommand, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    subcommand.make_context(name, rest, parent=context)
    return str(name)


def test_there_is_a_service_for_each_part() -> None:
    assert set(SERVICES) == {"broker", "gateway", "worker"}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_service_runs_the_part_it_is_named_after(name: str) -> None:
    assert accept(SERVICES[name]["command"]) == name


@pytest.mark.parametrize("name", ["broker", "gateway"])
def test_each_health_check_is_a_command_of_ours(name: str) -> None:
    kind, *command = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD"
    assert accept(command) in ("ping", "status")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.suffix[1:])
def test_each_image_starts_its_part_as_an_ordinary_user(dockerfile: Path) -> None:
    lines = dockerfile.read_text().splitlines()
    assert "ARG BASE=python:3.11-slim" in lines  # of which a digest can be said
    assert "FROM ${BASE}" in lines
    assert "USER torchrelay" in lines
    assert accept(json.loads(lines[-1].removeprefix("CMD "))) == dockerfile.suffix[1:]


@pytest.mark.parametrize("name", ["broker", "gateway"])
def test_only_the_workers_image_has_torch(name: str) -> None:
    assert "torch" not in locked(name)
    assert "torch" in locked("worker")


def test_workers_can_be_scaled() -> None:
    assert not {"container_name", "hostname", "ports"} & SERVICES["worker"].keys()
    assert not any("--name" in part for part in SERVICES["worker"]["command"])


def test_ports_are_published_on_loopback_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 5
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("listener", [8080, 8081, 8082])
def test_the_gateway_is_asked_by_its_service_and_from_this_host_and_by_no_other_name(listener: int) -> None:
    (named,) = (part for part in SERVICES["gateway"]["command"] if part.startswith("--allowed-hosts="))
    config = GatewaySettings(
        inference_address="http://0.0.0.0:8080",
        management_address="http://0.0.0.0:8081",
        metrics_address="http://0.0.0.0:8082",
        insecure=True,
        allowed_hosts=config_parsers.parse_hosts(named.partition("=")[2]),
    )
    check = browser_checks(config)[listener]

    def is_let_in(host: str) -> bool:
        headers = {b"host": f"{host}:{listener}".encode()}
        return check.refusal({"method": "GET", "scheme": "http", "headers_by_name": headers}) is None

    assert [is_let_in(host) for host in ("gateway", "localhost", "127.0.0.1", "172.18.0.3")] == [True] * 4
    assert not is_let_in("page.example")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_service_may_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    for limit in ("mem_limit", "pids_limit"):
        assert re.fullmatch(rf"\$\{{TORCHRELAY_{name.upper()}_[A-Z]+:-[0-9]+g?\}}", service[limit])
    assert not {"privileged", "cap_add", "network_mode", "pid", "user"} & service.keys()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_what_a_service_writes_is_a_volume_or_in_memory(name: str) -> None:
    named = [word.partition("=") for word in SERVICES[name]["command"]]
    written = [folder for option, _, folder in named if option in WRITTEN]
    volumes = [volume for volume in SERVICES[name].get("volumes", []) if not volume.startswith("join-")]
    assert set(written) == {volume.rpartition(":")[2] for volume in volumes}
    assert [mount.partition(":")[0] for mount in SERVICES[name]["tmpfs"]] == ["/tmp"]
    assert ("exec" in SERVICES[name]["tmpfs"][0]) == (name == "worker")


def said(name: str, option: str) -> list[str]:
    """The values of an option in a service's command."""
    command = SERVICES[name]["command"]
    return [word.partition("=")[2] for word in command if word.startswith(f"{option}=")]


def test_no_part_is_told_to_do_without_keys() -> None:
    assert not [name for name in SERVICES if "--insecure" in SERVICES[name]["command"]]
    assert not [path.name for path in DOCKERFILES if "--insecure" in path.read_text()]


@pytest.mark.parametrize(("name", "role"), [("worker", "node"), ("gateway", "gateway")])
def test_a_part_joins_by_an_invitation_that_only_its_role_and_the_broker_have(name: str, role: str) -> None:
    (folder,) = {Path(path).parent for path in said(name, "--join-file")}
    assert f"{role}={said(name, '--join-file')[0]}" in said("broker", "--invitation-file")
    volumes = {
        service: [one for one in SERVICES[service].get("volumes", []) if one.startswith(f"join-{role}:")]
        for service in SERVICES
    }
    assert volumes.pop("broker") == [f"join-{role}:{folder}"]
    assert volumes.pop(name) == [f"join-{role}:{folder}:ro"]
    assert not any(volumes.values())
    assert f"join-{role}" in COMPOSE["volumes"]
    for image in ("broker", name):
        made = (ROOT / "deploy" / f"Dockerfile.{image}").read_text()
        assert re.search(rf"--owner=torchrelay --mode=0700 .*{folder}\b", made), image


@pytest.mark.parametrize("name", ["worker", "gateway"])
def test_a_parts_key_is_in_memory_and_its_broker_is_where_the_invitation_says(name: str) -> None:
    (credentials,) = said(name, "--credentials")
    assert credentials.startswith("/tmp/")
    assert not said(name, "--broker")
    assert said("broker", "--advertise") == ["tcp://broker:7700"]


def test_the_brokers_health_check_needs_no_key() -> None:
    command = SERVICES["broker"]["healthcheck"]["test"]
    (state_dir,) = said("broker", "--state-dir")
    assert command[-1] == f"--broker=ipc://{state_dir}/broker.sock"


def test_workers_reach_the_broker_and_neither_gateway_nor_outside() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert networks["worker"] & networks["broker"] == {"workers"}
    assert networks["gateway"] & networks["broker"] == {"control"}
    assert not networks["worker"] & networks["gateway"]
    assert set().union(*networks.values()) == set(COMPOSE["networks"])
    internal = {name for name, network in COMPOSE["networks"].items() if network.get("internal")}
    assert internal == {"control", "workers"}
    online = yaml.safe_load((ROOT / "deploy" / "compose.online.yaml").read_text())
    assert online == {"networks": {"workers": {"internal": False}}}


def test_the_commands_refused_here_would_be_refused_there() -> None:
    with pytest.raises(Exception, match="no-such-option"):
        accept(["torchrelay", "worker", "--no-such-option"])


def test_the_overlay_for_keys_sets_what_the_commands_read() -> None:
    overlay = yaml.safe_load((ROOT / "deploy" / "compose.tokens.yaml").read_text())["services"]
    assert set(overlay["broker"]["environment"]) <= set(secrets_file.VARIABLES.values())
    assert set(overlay["gateway"]["environment"]) == {"TORCHRELAY_TOKENS", "TORCHRELAY_KEY"}
    seen: list[bool | None] = []
    probe = typer.Typer()

    @probe.command()
    def show(tokens: options.Tokens = None) -> None:
        seen.append(tokens)

    environs: list[dict[str, str]] = [overlay["gateway"]["environment"], {}]
    for environ in environs:
        CliRunner().invoke(probe, [], env=environ)
    assert seen == [True, None]


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose")
@pytest.mark.parametrize(
    "overlay", [[], *(["-f", f"deploy/compose.{name}.yaml"] for name in ("gpu", "tokens", "online"))]
)
def test_docker_compose_understands_the_files(overlay: list[str]) -> None:
    command = ["docker-compose", "-f", "compose.yaml", *overlay, "config", "--quiet"]
    keys = dict.fromkeys(("TORCHRELAY_INFERENCE_KEY", "TORCHRELAY_MANAGEMENT_KEY"), "a-long-enough-key")
    done = subprocess.run(
        command, cwd=ROOT, env={**environment(), **keys}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
