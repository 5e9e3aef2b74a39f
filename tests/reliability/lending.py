"""The fleet that one fault after another is tried on, and what this machine lacks for some."""

import contextlib
from pathlib import Path

from tests.reliability import striking
from tests.reliability.cells import Cell
from tests.reliability.hosts import FRONT, RACKS, Hosts, can_mount, small_disk
from tests.reliability.namespaces import namespaces

#: Small enough to be filled in a moment.
DISK_MB = 48


class Lent:
    """The fleet that cells share, made anew where one has left it broken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.made = 0
        self._open = contextlib.ExitStack()
        self._hosts: Hosts | None = None

    def whole(self) -> Hosts:
        if self._hosts is None:
            self._hosts = self._make()
        return self._hosts

    def _make(self) -> Hosts:
        self.made += 1
        folder = self._folder / f"fleet-{self.made}"
        folder.mkdir()
        network = self._open.enter_context(namespaces(FRONT, *RACKS))
        hosts = Hosts(folder, network)
        if not can_mount():
            for place in (hosts.state, hosts.cache(RACKS[0])):
                self._open.enter_context(small_disk(place, DISK_MB))
        self._open.callback(hosts.stop)
        hosts.start()
        return hosts

    def give_up(self) -> None:
        """End the fleet; show what its parts said."""
        if self._hosts is not None:
            print(self._hosts.output()[-20_000:])  # noqa: T201  # shown by pytest
            self.close()

    def close(self) -> None:
        self._hosts = None
        self._open.close()


def missing(cell: Cell) -> str:
    """Say what a cell needs that isn't here, or nothing."""
    match cell.needs:
        case "memory cgroup":
            return striking.has_memory_groups()
        case "mount":
            return can_mount()
    return ""
