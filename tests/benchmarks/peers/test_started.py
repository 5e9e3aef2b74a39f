import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from benchmarks import servers
from benchmarks.peers import started
from benchmarks.peers.launches import ComparedServer, PeerLaunch
from benchmarks.peers.rows import PLAN, ComparisonRow, chosen
from tests.support import eventually

ROW = chosen(["echo-1"])[0]
#: Answers with the body, and has a child that nobody but the one who stops it ends.
PROGRAM = """
import subprocess, sys
from http.server import HTTPServer
from tests.benchmarks.peers.test_answer_check import Echo
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
HTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"""


def role_of(command: Sequence[str], parent: str | None) -> str:
    return "child" if parent else "main"


def server(program: str, *, is_restless: bool = False) -> ComparedServer:
    def prepare(row: ComparisonRow, home: Path, plan: object) -> PeerLaunch:
        (port,) = servers.free_ports(1)
        command = [sys.executable, "-c", program, str(port)]
        return PeerLaunch(
            command=command, variables={"PYTHONPATH": str(Path(__file__).parents[3])}, port=port
        )

    return ComparedServer(label="Fake", options="", role_of=role_of, prepare=prepare, is_restless=is_restless)


@pytest.mark.integration
def test_a_server_is_asked_looked_at_and_stopped_with_what_it_started(tmp_path: Path) -> None:
    with started.started("mosec", server(PROGRAM, is_restless=True), ROW, tmp_path / "home", PLAN) as peer:
        tree = [psutil.Process(peer.process.pid)]
        with peer.awake():
            peer.await_ready()
            tree += tree[0].children()
            counted = peer.check(connections=1, seconds=0.0)
            memory = peer.memory()
        # Only while it is awake it takes CPU time.
        eventually(lambda: tree[0].status() == psutil.STATUS_STOPPED)
        assert peer.cpu_seconds().keys() == {"main", "child"}
    assert (counted.wrong, counted.answers > 0) == (0, True)
    assert memory.processes == len(tree) == 2
    assert memory.rss_bytes > 0
    eventually(lambda: not any(is_alive(process) for process in tree))


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.integration
def test_a_server_that_ends_says_its_last_words(tmp_path: Path) -> None:
    words = "import sys; sys.exit('no such model')"
    with (
        started.started("mosec", server(words), ROW, tmp_path / "home", PLAN) as peer,
        pytest.raises(servers.ServerFailed, match=r"Fake ended with 1; its last words:\nno such model"),
    ):
        peer.await_ready()


@pytest.mark.integration
def test_a_failure_meanwhile_leaves_no_process(tmp_path: Path) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    def interrupted() -> None:
        waits = server("import signal; signal.pause()")
        with started.started("mosec", waits, ROW, tmp_path / "home", PLAN) as peer:
            processes.append(peer.process)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert processes[0].poll() is not None


def test_what_a_killed_server_left_in_shared_memory_is_removed(tmp_path: Path) -> None:
    for name in ("benchmark-1-a", "benchmark-12-a", "other"):
        (tmp_path / name).touch()
    started.remove_shared_memory("", tmp_path)
    started.remove_shared_memory("benchmark-1-", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"benchmark-12-a", "other"}


def test_large_bodies_are_few_so_that_they_fit_into_memory() -> None:
    small, large = (started.questions(chosen([key])[0]) for key in ("echo-1", "5m"))
    assert len(small) == started.ITEMS
    assert 2 <= len(large) <= 4
