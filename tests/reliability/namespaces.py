"""Network namespaces of a test's own, one for each host, each wired to the hub.

Nothing of them is seen outside: links lie between the namespaces themselves, addresses are theirs alone.
"""

import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

#: The only one that is wired to all others.
HUB = "hub"

_numbers = itertools.count(1)


class NoNamespaces(Exception):
    """This machine doesn't let them be made; the text says why."""


class Namespaces:
    """The hub and other hosts; host number k (from 1) sees the hub at 10.201.k.1."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._prefix = f"tr{os.getpid()}-{next(_numbers)}-"
        self.hosts = tuple(hosts)

    def make(self) -> None:
        """Make them. Raises NoNamespaces, and then none is left."""
        try:
            for host in (HUB, *self.hosts):
                _ip("netns", "add", self.name(host))
                _ip("-n", self.name(host), "link", "set", "lo", "up")
            for number, host in enumerate(self.hosts, 1):
                self._wire(host, number)
        except NoNamespaces:
            self.remove()
            raise

    def _wire(self, host: str, number: int) -> None:
        hub, own = self.name(HUB), self.name(host)
        _ip("-n", hub, "link", "add", f"to{number}", "type", "veth", "peer", "name", "uplink", "netns", own)
        for namespace, device, last in ((hub, f"to{number}", 1), (own, "uplink", 2)):
            _ip("-n", namespace, "addr", "add", f"10.201.{number}.{last}/24", "dev", device)
            _ip("-n", namespace, "link", "set", device, "up")

    def remove(self) -> None:
        """Remove those that there are; whatever runs in one goes on without a network."""
        for host in (HUB, *self.hosts):
            subprocess.run(["ip", "netns", "del", self.name(host)], capture_output=True, check=False)

    def name(self, host: str) -> str:
        return f"{self._prefix}{host}"

    def hub_address(self, host: str) -> str:
        """Return where a host sees the hub."""
        return f"10.201.{self.hosts.index(host) + 1}.1"

    def command(self, host: str) -> list[str]:
        """Return what runs a command on a host; it becomes that command, and keeps its pid."""
        return ["ip", "netns", "exec", self.name(host)]


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NoNamespaces("there is no `ip` command (iproute2)") from error
    if done.returncode:
        raise NoNamespaces(f"`ip {' '.join(words)}`: {done.stderr.strip()}")


@cache
def why_not() -> str:
    """Say why none can be made here, or nothing."""
    made = Namespaces(["one"])
    try:
        made.make()
        subprocess.run([*made.command("one"), "true"], capture_output=True, check=True)
    except NoNamespaces as error:
        return f"network namespaces can't be made: {error}"
    except subprocess.CalledProcessError as error:
        return f"nothing can be run in network namespaces: {error.stderr.decode().strip()}"
    finally:
        made.remove()
    return ""


@contextmanager
def namespaces(*hosts: str) -> Iterator[Namespaces]:
    """Have namespaces for a while."""
    made = Namespaces(hosts)
    made.make()
    try:
        yield made
    finally:
        made.remove()
