"""Each kind of process is killed outright: nothing that it started outlives it, and its part comes back."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.integration.archives import make
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration

#: Starts a process that ignores polite requests to stop, as data loaders and other servers are.
WITH_HELPER = """
import subprocess, sys

class WithHelper:
    def initialize(self, context):
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
        self.helper = subprocess.Popen([sys.executable, "-c", code, "a-helper-of-a-handler"])

    def handle(self, data, context):
        return data and ["answer" for _ in data]
"""
RANKS = """
class Ranks:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        return data and ["answer" for _ in data]
"""
#: The process kinds by what their command line has, from the top of the tree to its leaves.
COMMANDS = {
    "serve": "torchrelay serve",
    "fork server": "cli.start.part_forks",
    "broker": "torchrelay broker",
    "gateway": "torchrelay gateway",
    "node": "torchrelay node",
    "launcher": "torchrelay launcher",
}
KINDS = [*COMMANDS, "gateway process", "worker", "rank", "helper"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Fleet]:
    store = tmp_path / "models"
    store.mkdir()
    make(store, "helped", code=WITH_HELPER)
    make(
        store,
        "ranks",
        code=RANKS,
        config="parallelType: tp\ndeviceType: cpu\ntorchrun: {nproc-per-node: 2}\n",
    )
    with fleet(tmp_path, store) as made:
        yield made


def is_of(process: psutil.Process, words: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return words in " ".join(process.cmdline())
    return False


def lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def find(fleet: Fleet, kind: str) -> psutil.Process:
    """Return the one process of a kind, or the first."""
    tree = fleet.descendants()

    def by_command(name: str) -> psutil.Process:
        # Forks keep the command line: the parent is the one whose own parent doesn't have it.
        words = COMMANDS[name]
        return next(p for p in tree if is_of(p, words) and not is_of(p.parent() or p, words))

    match kind:
        case "gateway process":
            return by_command("gateway").children()[0]
        case "worker":
            return psutil.Process(fleet.ready("ranks")[0]["pid"])
        case "rank":
            return find(fleet, "worker").children()[0]
        case "helper":
            return next(process for process in tree if is_of(process, "a-helper-of-a-handler"))
    return by_command(kind)


def serves(fleet: Fleet, *models: str) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return all(fleet.predict(model).status_code == 200 for model in models)
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_of_serve_takes_what_it_started_along_and_comes_back(
    server: Fleet, kind: str
) -> None:
    start = ["serve", "--model-store", str(server.store), "--state-dir", str(server.folder / "state"),
             "--cache-dir", str(server.folder / "cache"), *server.listeners(), "--models", "all"]  # fmt: skip
    server.run(*start)
    eventually(lambda: serves(server, "helped", "ranks"))
    victim = find(server, kind)
    family = [victim, *victim.children(recursive=True)]
    victim.kill()
    eventually(lambda: not any(map(lives, family)))
    if kind == "serve":
        server.run(*start)
    eventually(lambda: serves(server, "helped", "ranks"))


#: How each part is started alone, in the order in which it is done here.
PARTS: dict[str, Callable[[Fleet], object]] = {
    "broker": lambda fleet: fleet.broker("--models", "all"),
    "gateway": lambda fleet: fleet.gateway(),
    "node": lambda fleet: fleet.node("n"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_killed_part_can_be_started_again_where_it_was(server: Fleet, name: str) -> None:
    for start in PARTS.values():
        start(server)
    eventually(lambda: serves(server, "helped", "ranks"))
    victim = psutil.Process(server.processes[list(PARTS).index(name)].pid)
    family = [victim, *victim.children(recursive=True)]
    victim.kill()
    eventually(lambda: not any(map(lives, family)))
    PARTS[name](server)
    again = server.processes[-1]
    eventually(lambda: serves(server, "helped", "ranks"))
    assert again.poll() is None
