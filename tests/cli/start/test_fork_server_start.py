"""Fork servers that are started early, and played here by programs that say who they are."""

import sys

import pytest

from torchrelay.cli.faults import Fault
from torchrelay.cli.start import fork_server_start
from torchrelay.cli.start.fork_server_start import ForkServerStart
from torchrelay.shared.settings import NodeSettings, environment

PLAYED = """
import os, socket, sys
orders = socket.socket(fileno=int(sys.argv[1]))
orders.send(os.environ["WHO"].encode())
orders.recv(1)
"""


def start() -> ForkServerStart:
    return ForkServerStart({**environment(), "WHO": "me"}, (sys.executable, "-P", "-c", PLAYED))


def test_the_first_runs_before_it_is_asked_for_and_each_later_one_is_new() -> None:
    starting = start()
    taken = [starting.take() for _ in range(2)]
    assert [running.orders.recv(10) for running in taken] == [b"me"] * 2
    assert len({running.process.pid for running in taken}) == 2
    for running in taken:
        running.orders.close()
        assert running.process.wait(60) == 0


def test_one_that_nobody_has_taken_ends() -> None:
    starting = start()
    starting.close()
    starting.close()
    taken = starting.take()
    assert taken.orders.recv(10) == b"me"
    taken.orders.close()
    assert taken.process.wait(60) == 0


def test_what_the_environment_of_workers_can_not_be_made_of_is_a_fault() -> None:
    with pytest.raises(Fault, match="no regular expression"):
        fork_server_start.with_environment_of_workers(
            NodeSettings(name="n", cache_dir="/nowhere", blacklist_env_vars="[")
        )


def test_a_host_without_room_for_a_process_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(Fault, match="no process can be started: Resource temporarily unavailable"):
        fork_server_start.with_environment_of_workers(NodeSettings(name="n", cache_dir="/nowhere"))
