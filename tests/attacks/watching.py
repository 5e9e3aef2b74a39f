"""Looks at the processes of a server while it is attacked: memory, ends, logs."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from benchmarks.processes import torchrelay_role, tree
from tests.attacks.verdicts import Memory

LOOK_S = 0.25
#: Looking for new processes takes longer than looking at those that are known.
TREE_EVERY = 8


class Watch:
    """Keeps an eye on a server's processes in a thread of its own."""

    def __init__(self, parts: Sequence[tuple[int, str]], folder: Path) -> None:
        """Take the processes that were started, with their roles, and the folder with their logs."""
        self._parts = parts
        self._folder = folder
        self._roles: dict[psutil.Process, str] = {}
        self._before: dict[psutil.Process, int] = {}
        self._most: dict[psutil.Process, int] = {}
        self._log_bytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        """Take what is there now for what is normal, and go on looking."""
        self._find()
        for process in self._roles:
            with suppress(OSError):  # counts the most from now on
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        self._before = {process: _resident(process) for process in self._roles}
        self._log_bytes = self._logs()
        self._thread.start()

    def largest(self) -> str:
        """Say which process holds most, for who waits meanwhile."""
        if not self._most:
            return ""
        process = max(self._most, key=lambda one: self._most[one])
        return f"{self._roles[process]} {self._most[process] / 1e6:.0f} MB"

    def end(self) -> tuple[tuple[Memory, ...], tuple[str, ...], int]:
        """Stop looking; return the memory of each process, the roles of those that ended, growth of logs."""
        self._is_over.set()
        self._thread.join()
        self._look()
        memory = tuple(
            Memory(role, self._before.get(process, 0), self._most.get(process, 0), _resident(process))
            for process, role in self._roles.items()
            # What the attack had started is the server's, too, but has no before to be compared with.
            if process in self._before or process in self._most
        )
        ended = tuple(self._roles[one] for one in self._before if not _is_running(one))
        return tuple(map(_without_growth_of_new, memory)), ended, self._logs() - self._log_bytes

    def _run(self) -> None:
        count = 0
        while not self._is_over.wait(LOOK_S):
            count += 1
            if count % TREE_EVERY == 0:
                self._find()
            self._look()

    def _find(self) -> None:
        for pid, part in self._parts:
            with suppress(psutil.NoSuchProcess):
                for process, role in tree(pid, partial(_role, part)):
                    self._roles.setdefault(process, role)

    def _look(self) -> None:
        for process in tuple(self._roles):
            most = max(_resident(process), _resident(process, "VmHWM"))
            self._most[process] = max(most, self._most.get(process, 0))

    def _logs(self) -> int:
        sizes = 0
        for path in self._folder.rglob("*.log*"):
            with suppress(OSError):
                sizes += path.stat().st_size
        return sizes


def _role(part: str, words: Sequence[str], parent: str | None) -> str:
    return part if parent is None else torchrelay_role(words, parent)


def _without_growth_of_new(memory: Memory) -> Memory:
    if memory.before_bytes:
        return memory
    return Memory(memory.role, memory.after_bytes, memory.most_bytes, memory.after_bytes)


def _resident(process: psutil.Process, field: str = "VmRSS") -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def _is_running(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
