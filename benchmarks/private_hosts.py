"""Hosts made of network namespaces, each on a link to the first one; nothing of them is seen outside."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

NEEDS = "hosts of their own take network namespaces: Linux, root, and `ip` (apt-get install iproute2)"


class NoHosts(RuntimeError):
    """Namespaces can't be made here; says why, and what it takes."""


@dataclass(frozen=True)
class Hosts:
    """The namespaces of `names`, which last as long as `made`; links lead to the first of them."""

    prefix: str
    names: Sequence[str]

    def namespace(self, host: str) -> str:
        """Return the name of a host's namespace."""
        return f"{self.prefix}-{host}"

    def command(self, host: str) -> tuple[str, ...]:
        """Return what a command on a host begins with; it becomes that command, and keeps its pid."""
        return "ip", "netns", "exec", self.namespace(host)

    def first_seen_by(self, host: str) -> str:
        """Return the address of the first host on the link to another."""
        return self._address(host, 1)

    def make(self) -> None:
        """Make them. Raises NoHosts."""
        for host in self.names:
            _ip("netns", "add", self.namespace(host))
            _ip("-n", self.namespace(host), "link", "set", "lo", "up")
        for host in self.names[1:]:
            self._link(host)

    def remove(self) -> None:
        """Remove those that there are."""
        for host in self.names:
            with suppress(FileNotFoundError):  # without `ip` there are none
                subprocess.run(["ip", "netns", "del", self.namespace(host)], capture_output=True, check=False)

    def _link(self, host: str) -> None:
        first, other = self.namespace(self.names[0]), self.namespace(host)
        _ip(
            "-n", first, "link", "add", f"to-{host}", "type", "veth", "peer", "name", "uplink", "netns", other
        )
        for namespace, device, last in ((first, f"to-{host}", 1), (other, "uplink", 2)):
            _ip("-n", namespace, "addr", "add", f"{self._address(host, last)}/24", "dev", device)
            _ip("-n", namespace, "link", "set", device, "up")

    def _address(self, host: str, last: int) -> str:
        return f"10.202.{self.names.index(host)}.{last}"


@contextmanager
def made(*names: str) -> Iterator[Hosts]:
    """Have hosts for a while. Raises NoHosts."""
    hosts = Hosts(f"bench{os.getpid()}", names)
    try:
        hosts.make()
        yield hosts
    finally:
        hosts.remove()


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NoHosts(NEEDS) from error
    if done.returncode:
        raise NoHosts(f"{NEEDS}; `ip {' '.join(words)}`: {done.stderr.strip()}")
