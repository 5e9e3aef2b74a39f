from pathlib import Path

import pytest

from benchmarks.paired_fleets import HOSTS, PairedFleet, roles_under
from benchmarks.private_hosts import Hosts
from benchmarks.results import RunPlan

NETWORK = Hosts("bench", HOSTS)


def fleet(kind: str) -> PairedFleet:
    return PairedFleet(kind, NETWORK, Path("/fleet"), Path("/store"))


def test_only_what_crosses_the_network_differs_between_the_fleets() -> None:
    plain, secured = (fleet(kind).commands(RunPlan()) for kind in ("plain", "secured"))
    assert [*plain] == [*secured] == ["broker", "unix gateway", "tcp gateway", "node"]
    for part in ("broker", "tcp gateway", "node"):
        assert "--insecure" in plain[part][1]
        assert "--insecure" not in secured[part][1]
    for commands in (plain, secured):
        host, words = commands["unix gateway"]
        assert (host, words[-2:]) == ("front", ["--broker", "ipc:///fleet/broker.sock"])


@pytest.mark.parametrize(("part", "host"), [("tcp gateway", "other"), ("node", "rack")])
def test_a_part_on_another_host_dials_the_broker_over_the_link_between(part: str, host: str) -> None:
    on, words = fleet("secured").commands(RunPlan())[part]
    assert on == host
    assert words[words.index("--broker") + 1] == f"tcp://{NETWORK.first_seen_by(host)}:7702"


def test_the_load_comes_from_beside_the_gateway() -> None:
    assert fleet("plain").load_prefix("unix") == NETWORK.command("front")
    assert fleet("plain").load_prefix("tcp") == NETWORK.command("other")


def test_the_processes_of_a_part_have_their_roles() -> None:
    role_of = roles_under("gateway")
    assert role_of(["torchrelay"], None) == "gateway arbiter"
    assert role_of(["torchrelay"], "gateway arbiter") == "gateway process"
    assert roles_under("node")(["python", "-m", "torchrelay.worker.launcher"], "node") == "launcher"
