"""Looks at the processes of a server: which one does what, its memory, its CPU time."""

import resource
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.results import ProcessFacts

#: Command line and the parent's role -> role. The parent's is None for the process that was started.
RoleOf = Callable[[Sequence[str], str | None], str]


def torchrelay_role(command: Sequence[str], parent: str | None) -> str:
    """Name a process of `torchrelay serve`; forked ones carry their parent's command line."""
    if parent is None:
        return "serve"
    command = " ".join(command).split()  # the kernel shows a title as one word
    if parent in ("gateway arbiter", "gateway process"):
        return "gateway process"
    if parent in ("launcher", "model worker"):
        return "model worker"
    if "torchrelay.worker.launcher" in command or command == ["torchrelay", "launcher"]:
        return "launcher"
    if "torchrelay.shared.archives.reader_process" in command:
        return "archive reader"
    if "torchrelay.cli.start.part_forks" in command:
        return "fork server"
    if parent == "fork server":
        return "gateway arbiter" if command[0] == "gunicorn:" else command[-1]
    if {"torchrelay.cli.child", "torchrelay.cli.start.child"} & {*command}:  # an older one may be compared
        return {"gateway": "gateway arbiter", "worker": "node"}.get(command[-1], command[-1])
    return "other"


def torchserve_role(command: Sequence[str], parent: str | None) -> str:
    """Name a process of `torchserve --start --foreground`."""
    if parent is None:
        return "torchserve"
    if any(word.endswith("model_service_worker.py") for word in command):
        return "model worker"
    if command and command[0].rpartition("/")[2] == "java":
        return "frontend (Java)"
    return "other"


def tree(root: int, role_of: RoleOf) -> list[tuple[psutil.Process, str]]:
    """Return the process and all its descendants with their roles, parents first."""
    found: list[tuple[psutil.Process, str]] = []
    open_ends: list[tuple[psutil.Process, str | None]] = [(psutil.Process(root), None)]
    while open_ends:
        process, parent = open_ends.pop(0)
        try:
            role = role_of(process.cmdline(), parent)
            children = process.children()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        found.append((process, role))
        open_ends += [(child, role) for child in children]
    return found


def look(server: str, root: int, role_of: RoleOf) -> list[ProcessFacts]:
    """Read the memory of each process of a server."""
    return [
        ProcessFacts(
            server=server,
            role=role,
            rss_bytes=process.memory_info().rss,
            pss_bytes=memory_of(process.pid, "Pss"),
            has_torch=_has_torch(process.pid),
        )
        for process, role in tree(root, role_of)
    ]


def cpu_seconds(root: int, role_of: RoleOf) -> dict[str, float]:
    """Read the CPU time, user and system, that each role has taken up to now; the kernel counts 10 ms."""
    spent: defaultdict[str, float] = defaultdict(float)
    for process, role in tree(root, role_of):
        times = process.cpu_times()
        spent[role] += times.user + times.system
    return dict(spent)


def busy_seconds() -> float:
    """Read the CPU time that everything on this machine has taken up to now."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def seconds_of_ended_children() -> float:
    """Read the CPU time of those that this process has started and seen end, as the load generator."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def thread_seconds(pid: int) -> dict[str, float]:
    """Read the CPU time of a process's threads, by the nanosecond: those of libzmq as `zmq`, others as ``."""
    spent: defaultdict[str, float] = defaultdict(float)
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that has ended meanwhile
            kind = "zmq" if (task / "comm").read_text().startswith("ZMQbg/IO") else ""
            spent[kind] += int((task / "schedstat").read_text().split()[0]) / 1e9
    return dict(spent)


def memory_of(pid: int, *kinds: str) -> int | None:
    """Return how many bytes a process has of these kinds of /proc/PID/smaps_rollup; None where unreadable."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    lines = (line.split() for line in text.splitlines())
    found = [int(words[1]) * 1024 for words in lines if words[0].removesuffix(":") in kinds]
    return sum(found) if found else None


def _has_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def seconds_without_cpu(root: int, role_of: RoleOf) -> dict[str, float]:
    """Read for how long the main threads of each role could have run and had no CPU up to now.

    How busy a machine is shows in this: on an idle one it hardly grows.
    """
    waited: defaultdict[str, float] = defaultdict(float)
    for process, role in tree(root, role_of):
        waited[role] += own_seconds_without_cpu(process.pid)
    return dict(waited)


def own_seconds_without_cpu(pid: int | str = "self") -> float:
    """Return the same of one process; 0 where the kernel doesn't count it."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
