import subprocess

import pytest

from benchmarks import private_hosts
from tests.reliability.namespaces import why_not


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_hosts_reach_the_first_one_and_leave_nothing_behind() -> None:
    with private_hosts.made("first", "second") as hosts:
        address = hosts.first_seen_by("second")
        asked = [*hosts.command("second"), "ip", "route", "get", address]
        route = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        assert route.startswith(f"{address} dev uplink src 10.202.1.2")
        names = {hosts.namespace(host) for host in hosts.names}
        assert names <= namespaces()
    assert not names & namespaces()


def test_a_machine_without_namespaces_is_told_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(private_hosts.NoHosts, match="iproute2"), private_hosts.made("first"):
        pass


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines() if line}
