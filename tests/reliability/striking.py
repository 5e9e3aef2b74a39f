"""How each fault is inflicted: a context that strikes on entry; what lasts is over when its body begins."""

import contextlib
import os
import random
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import psutil

from tests.installation import command
from tests.reliability import revoking
from tests.reliability.cells import Cell
from tests.reliability.hosts import FRONT, PORT, RACKS, Hosts, wait_for
from tests.reliability.namespaces import HUB
from tests.reliability.proxy import Trouble
from tests.support import eventually

#: Where each target's connections are: a host, and the role of those that have one there.
LINKS = {
    "gateway process": (FRONT, ""),
    "broker": ("", ""),
    "node": (RACKS[0], "node"),
    "worker": (RACKS[0], "worker"),
}
SLOW = Trouble(delay_s=0.1, bytes_per_s=4e6)
FLIPS_EVERY_BYTES = 5000
DOUBLE_EVERY = 3
#: What a process in a small memory group may have beside what it has, and what it asks for then.
MEMORY_BYTES, EATEN_MB = 16 << 20, 64
CGROUPS = Path("/sys/fs/cgroup")
JUMP_S = 3600.0
#: What hangs for so long doesn't go on by itself before the test is over.
FOR_EVER_S = 600.0

Strike = Callable[[Hosts, Cell], AbstractContextManager[None]]


def strike(hosts: Hosts, cell: Cell) -> AbstractContextManager[None]:
    """Return what inflicts a cell's fault."""
    own = _OF_CELLS.get((cell.fault, cell.target))
    return (own or _OF_FAULTS[cell.fault])(hosts, cell)


# Processes


@contextmanager
def _signal(hosts: Hosts, cell: Cell) -> Iterator[None]:
    victim = hosts.process(_process_of(cell))
    if cell.fault == "SIGSTOP":
        with hosts.stopped(victim):
            wait_for(cell.seconds)
    else:
        victim.send_signal(getattr(signal, cell.fault))
        if cell.target != "launcher" or cell.fault == "SIGKILL":  # it heeds its node alone
            eventually(lambda: not _lives(victim))
    yield


@contextmanager
def _deed(hosts: Hosts, cell: Cell) -> Iterator[None]:
    deed = cell.fault.removeprefix("os._")
    victim = hosts.process(_process_of(cell))
    hosts.order(victim, deed, cell.seconds)
    if cell.seconds and cell.seconds < FOR_EVER_S:
        wait_for(cell.seconds)
    else:
        eventually(lambda: not _lives(victim))
    yield


@contextmanager
def _memory(hosts: Hosts, cell: Cell) -> Iterator[None]:
    victim = hosts.process(cell.target)
    with memory_group(f"matrix-{victim.pid}", MEMORY_BYTES) as group:
        (group / "cgroup.procs").write_text(str(victim.pid))
        hosts.order(victim, "eat", EATEN_MB)
        eventually(lambda: not _lives(victim))
        yield


@contextmanager
def memory_group(name: str, limit_bytes: int) -> Iterator[Path]:
    """Make a group of processes with little memory; the kernel kills what needs more. Raises OSError."""
    is_old = (CGROUPS / "memory").is_dir()
    group = (CGROUPS / "memory" if is_old else CGROUPS) / name
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if is_old else "memory.max")).write_text(str(limit_bytes))
        with contextlib.suppress(OSError):  # where there is no swap to be limited
            (group / "memory.swap.max").write_text("0")
        yield group
    finally:
        # What is left there lives on where everything does.
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (group.parent / "cgroup.procs").write_text(pid)
        with contextlib.suppress(OSError):
            eventually(lambda: not (group / "cgroup.procs").read_text().split(), 10)
            group.rmdir()


@contextmanager
def _few_fds(hosts: Hosts, cell: Cell) -> Iterator[None]:
    victim = hosts.process(cell.target)
    before = resource.prlimit(victim.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (victim.num_fds(), before[1]))
    if cell.target in ("node", "launcher"):
        hosts.process("worker").kill()  # the next one needs some
    wait_for(cell.seconds)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, before)
    yield


@contextmanager
def _jump(hosts: Hosts, cell: Cell) -> Iterator[None]:
    victim = hosts.process(cell.target)
    for seconds in (JUMP_S, -2 * JUMP_S, JUMP_S):
        hosts.order(victim, "jump", seconds)
        wait_for(cell.seconds / 3)
    yield


# Links


def _link(trouble: Trouble, *, resets: bool = False) -> Strike:
    @contextmanager
    def made(hosts: Hosts, cell: Cell) -> Iterator[None]:
        host, role = LINKS[cell.target]
        hosts.trouble(trouble, host=host, role=role)
        wait_for(cell.seconds)
        hosts.trouble(Trouble(), host=host, role=role, resets=resets)
        yield

    return made


@contextmanager
def _host_cut(hosts: Hosts, cell: Cell) -> Iterator[None]:
    """Cut a whole host off, for longer than it may be silent: it comes back with what it was given before."""
    hosts.trouble(Trouble(is_cut=True), host=RACKS[0])
    wait_for(cell.seconds)
    hosts.trouble(Trouble(), host=RACKS[0])
    yield


@contextmanager
def _former_epoch(hosts: Hosts, cell: Cell) -> Iterator[None]:
    """Hold up what workers answer until another broker is there."""
    for rack in RACKS:
        hosts.trouble(Trouble(is_cut=True), host=rack, role="worker")
    wait_for(cell.seconds)
    hosts.process("broker").kill()
    wait_for(cell.seconds)
    for rack in RACKS:
        hosts.trouble(Trouble(), host=rack, role="worker")
    yield


_GARBAGE = """
import os, random, socket, sys, time
rng, until = random.Random(7), time.monotonic() + float(sys.argv[2])
half = b"\\xff" + bytes(8) + b"\\x7f"
null, curve = (half + b"\\x03\\x01" + name for name in (b"NULL", b"CURVE".ljust(20, bytes(1)) + bytes(32)))
starts = [b"", b"GET / HTTP/1.1\\r\\n\\r\\n", half, null, curve]
held = []
while time.monotonic() < until:
    one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    held.append(one)
    try:
        one.sendall(rng.choice(starts) + rng.randbytes(rng.choice((10, 1000, 100_000))))
    except OSError:
        pass
    if len(held) > 40:
        held.pop(0).close()
    time.sleep(0.02)
"""


@contextmanager
def _garbage_at_the_broker(hosts: Hosts, cell: Cell) -> Iterator[None]:
    words = [*hosts.network.command(HUB), sys.executable, "-c", _GARBAGE, str(PORT), str(cell.seconds)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    yield


@contextmanager
def _garbage_at_the_gateway(hosts: Hosts, cell: Cell) -> Iterator[None]:
    rng = random.Random(7)
    with contextlib.ExitStack() as held:
        for _ in range(int(cell.seconds / 0.05)):
            one = held.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(str(hosts.socket))
            with contextlib.suppress(OSError):
                one.sendall(rng.choice((b"", b"POST / HTTP/1.1\r\n", b"\x16\x03\x01")) + rng.randbytes(2000))
            wait_for(0.05)
    yield


# Disks and files


@contextmanager
def _full(hosts: Hosts, cell: Cell) -> Iterator[None]:
    """Fill the registry's disk; after half of the time the broker is killed, and has to start there."""
    with _ballast(hosts.state):
        wait_for(cell.seconds / 2)
        hosts.process("broker").kill()
        wait_for(cell.seconds / 2)
    yield


@contextmanager
def _full_cache(hosts: Hosts, cell: Cell) -> Iterator[None]:
    with _ballast(hosts.cache(RACKS[0])):
        _replace_a_worker(hosts)
    yield


@contextmanager
def _ballast(folder: Path) -> Iterator[None]:
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    try:
        yield
    finally:
        path.unlink()


@contextmanager
def _read_only_registry(hosts: Hosts, cell: Cell) -> Iterator[None]:
    with hosts.left_alone():
        broker = hosts.process("broker")
        broker.kill()
        # Until the last of its threads and children has ended, files are open.
        eventually(lambda: not _lives(broker) and _remount(hosts.state, "ro", check=False))
    wait_for(cell.seconds)
    _remount(hosts.state, "rw")
    yield


@contextmanager
def _read_only_cache(hosts: Hosts, cell: Cell) -> Iterator[None]:
    """End the node, which holds files there open, and have it start with a cache that it can't write."""
    with hosts.left_alone():
        node = hosts.process("node")
        node.kill()
        eventually(lambda: _remount(hosts.cache(RACKS[0]), "ro", check=False))
    wait_for(cell.seconds)
    _remount(hosts.cache(RACKS[0]), "rw")
    yield


def _remount(folder: Path, mode: str, *, check: bool = True) -> bool:
    done = subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], capture_output=True, check=check)
    return done.returncode == 0


def _replace_a_worker(hosts: Hosts) -> None:
    victim = hosts.process("worker")
    victim.kill()
    eventually(lambda: not _lives(victim) and hosts.is_whole())


def registry_file(hosts: Hosts) -> Path:
    return hosts.state / "registry.sqlite"


@contextmanager
def _locked_registry(hosts: Hosts, cell: Cell) -> Iterator[None]:
    """Hold the database's lock, as a backup does."""
    connection = sqlite3.connect(registry_file(hosts), isolation_level=None, timeout=10)
    connection.execute("BEGIN IMMEDIATE")
    wait_for(cell.seconds)
    connection.execute("ROLLBACK")
    connection.close()
    yield


@contextmanager
def _damaged_registry(hosts: Hosts, cell: Cell) -> Iterator[None]:
    """Damage the file under a dead broker: none starts with it, until the file is brought back."""
    with hosts.left_alone():
        broker = hosts.process("broker")
        broker.kill()
        eventually(lambda: not _lives(broker))
        path = registry_file(hosts)
        # Else all may be in its log, by which SQLite reads it whatever is in the file.
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        whole = path.read_bytes()
        path.write_bytes(whole[:100] + bytes(byte ^ 0xA5 for byte in whole[100:]))
        broken = path.read_bytes()
    wait_for(cell.seconds)
    with hosts.left_alone():
        assert path.read_bytes() == broken, "a broker has written to a registry that it can't read"
        path.write_bytes(whole)
    yield


#: The command `torchrelay`, once it is told to go on: its start takes long where there is much to do.
_HELD_COMMAND = """
import sys
import torchrelay.broker.server, torchrelay.cli.commands.parts
from torchrelay.cli.main import main
print("loaded", flush=True)
sys.stdin.readline()
sys.argv[0] = "torchrelay"
main()
"""


@contextmanager
def _second_broker(hosts: Hosts, cell: Cell) -> Iterator[None]:
    """Start another broker on the same state, while the one works or, as for a stale lock, stands still."""
    words = [*hosts.network.command(HUB), command("python"), "-c", _HELD_COMMAND, "broker", "--state-dir",
             str(hosts.state), "--address", f"tcp://127.0.0.1:{PORT + 1}"]  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as second:
        assert second.stdout is not None
        assert second.stdout.readline() == "loaded\n"
        is_stale = cell.fault == "stale lease"
        with hosts.stopped(hosts.process("broker")) if is_stale else contextlib.nullcontext():
            wait_for(cell.seconds)
            out, said = second.communicate("\n", timeout=60)
    assert second.returncode == 1, out + said
    assert str(hosts.state) in said, said
    yield


@contextmanager
def _second_gateway(hosts: Hosts, cell: Cell) -> Iterator[None]:
    """Start another gateway on the same address."""
    unix = f"unix:{hosts.socket}"
    words = [*hosts.network.command(FRONT), command("torchrelay"), "gateway", "--broker",
             f"tcp://{hosts.network.hub_address(FRONT)}:{PORT}", "--credentials",
             str(hosts.credentials("gateway")), "--inference-address", unix, "--management-address", unix,
             "--metrics-address", unix]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    yield


def _process_of(cell: Cell) -> str:
    return "broker" if cell.target == "registry" else cell.target


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def has_memory_groups() -> str:
    """Say why a memory group can't be made here, or nothing."""
    try:
        with memory_group(f"matrix-probe-{os.getpid()}", MEMORY_BYTES):
            return ""
    except OSError as error:
        return f"no memory cgroup can be made: {error}"


_OF_FAULTS: dict[str, Strike] = {
    "SIGKILL": _signal,
    "SIGSTOP": _signal,
    "SIGTERM": _signal,
    "os._exit": _deed,
    "hang": _deed,
    "hang with GIL": _deed,
    "segfault": _deed,
    "out of memory": _memory,
    "link cut": _link(Trouble(is_cut=True)),
    "link slow": _link(SLOW),
    "corrupted bytes": _link(Trouble(flip_every_bytes=FLIPS_EVERY_BYTES), resets=True),
    "duplicate": _link(Trouble(double_every=DOUBLE_EVERY)),
    "file descriptors": _few_fds,
    "clock jump": _jump,
}
#: Where a fault is another of a target than it is of others.
_OF_CELLS: dict[tuple[str, str], Strike] = {
    ("hang", "registry"): _locked_registry,
    ("corrupted bytes", "registry"): _damaged_registry,
    ("disk full", "registry"): _full,
    ("disk full", "node"): _full_cache,
    ("read-only disk", "registry"): _read_only_registry,
    ("read-only disk", "node"): _read_only_cache,
    ("garbage peer", "broker"): _garbage_at_the_broker,
    ("garbage peer", "gateway process"): _garbage_at_the_gateway,
    ("stale lease", "broker"): _former_epoch,
    ("stale lease", "node"): _host_cut,
    ("stale lease", "worker"): _link(Trouble(is_cut=True)),
    ("stale lease", "registry"): _second_broker,
    ("duplicate", "registry"): _second_broker,
    ("duplicate", "arbiter"): _second_gateway,
    ("revoked key", "gateway process"): revoking.of_a_gateway,
    ("revoked key", "broker"): revoking.of_the_broker,
    ("revoked key", "node"): revoking.of_a_node,
    ("revoked key", "worker"): revoking.of_a_worker,
    ("revoked key", "registry"): revoking.in_the_registry,
}
