"""The supervisor with real, tiny processes: restart, give up, order of stopping, nothing left behind."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from tests.support import eventually_async
from torchrelay.cli.faults import Fault
from torchrelay.cli.start.child import Launch, LogTarget, Role
from torchrelay.cli.start.fork_server_start import ForkServerStart
from torchrelay.cli.start.started_parts import StartedParts
from torchrelay.cli.start.supervisor import Supervisor
from torchrelay.shared.settings import environment

#: A fork server whose processes write their pid to FOLDER/ROLE, and do as their settings say.
FORK_SERVER = """
import json, os, pathlib, signal, sys, time
from torchrelay.cli.start import child, part_forks

def run(role):
    what = json.loads(sys.stdin.readline())["settings"]
    folder = pathlib.Path(what["folder"])
    def note(name, text):
        new = folder / f"{name}.{os.getpid()}"
        new.write_text(text)
        new.rename(folder / name)
    def stop(*_):
        with (folder / "stopped").open("a") as file:
            file.write(role + "\\n")
        sys.exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if what.get("is_deaf") else stop)
    if what.get("has_child"):
        pid = os.fork()
        if pid == 0:
            while True:
                signal.pause()
        note("grandchild", str(pid))
    if "exits" in what:
        sys.exit(what["exits"])
    note("forks", str(os.getppid()))
    note(role, str(os.getpid()))
    while True:
        time.sleep(0.05)  # not pause(), which a signal that comes just before it doesn't end

child.main = run
sys.exit(part_forks.main())
"""


def launch(role: Role, folder: Path, **what: object) -> Launch:
    settings = msgspec.Raw(msgspec.json.encode({"folder": str(folder), **what}))
    return Launch(role=role, settings=settings, log=LogTarget(level="INFO", log_format="text"))


@asynccontextmanager
async def supervised(*launches: Launch) -> AsyncIterator[tuple[Supervisor, "asyncio.Task[None]", list[str]]]:
    said: list[str] = []
    command = (sys.executable, "-P", "-c", FORK_SERVER)
    supervisor = Supervisor(launches, said.append, ForkServerStart(environment(), command))
    running = asyncio.create_task(supervisor.run())
    try:
        yield supervisor, running, said
    finally:
        await supervisor.stop()
        await asyncio.gather(running, return_exceptions=True)


def pid_in(file: Path) -> int:
    return int(file.read_text()) if file.exists() else 0


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie whose parent we are not is as good as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


async def test_children_stop_in_the_order_that_loses_nothing(tmp_path: Path) -> None:
    roles: tuple[Role, ...] = ("broker", "worker", "gateway")
    async with supervised(*(launch(role, tmp_path) for role in roles)) as (supervisor, running, _):
        await eventually_async(lambda: all(pid_in(tmp_path / role) for role in roles))
        await supervisor.stop()
        await running
    assert (tmp_path / "stopped").read_text().split() == ["gateway", "worker", "broker"]


async def test_a_killed_child_is_started_again_at_once_and_the_reason_is_told(tmp_path: Path) -> None:
    async with supervised(launch("broker", tmp_path)) as (supervisor, _, said):
        await eventually_async(lambda: pid_in(tmp_path / "broker"))
        supervisor.answers()
        first = pid_in(tmp_path / "broker")
        os.kill(first, signal.SIGKILL)
        await eventually_async(lambda: pid_in(tmp_path / "broker") != first)
    assert said == ["broker ended (killed by SIGKILL); starting it again"]


async def test_a_child_that_can_not_start_ends_everything_with_one_fault(tmp_path: Path) -> None:
    launches = (launch("broker", tmp_path), launch("gateway", tmp_path, exits=3))
    async with supervised(*launches) as (_, running, said):
        with pytest.raises(Fault, match=r"the gateway can't start \(exit status 3\)"):
            await running
    assert said == []
    assert not is_alive(pid_in(tmp_path / "broker"))


async def test_once_up_a_child_is_started_again_as_often_as_it_takes(tmp_path: Path) -> None:
    async with supervised(launch("worker", tmp_path, exits=1)) as (supervisor, running, said):
        supervisor.answers()
        await eventually_async(lambda: len(said) >= 4)
        assert not running.done()


async def test_what_a_dead_child_leaves_behind_is_ended_too(tmp_path: Path) -> None:
    async with supervised(launch("gateway", tmp_path, has_child=True)) as (supervisor, _, _said):
        await eventually_async(lambda: pid_in(tmp_path / "gateway"))
        supervisor.answers()
        orphan = pid_in(tmp_path / "grandchild")
        os.kill(pid_in(tmp_path / "gateway"), signal.SIGKILL)
        await eventually_async(lambda: not is_alive(orphan))


async def test_a_child_that_does_not_listen_is_ended_within_its_time(tmp_path: Path) -> None:
    async with supervised(launch("broker", tmp_path, is_deaf=True)) as (supervisor, running, _):
        await eventually_async(lambda: pid_in(tmp_path / "broker"))
        deaf = pid_in(tmp_path / "broker")
        await asyncio.wait_for(supervisor.stop(), timeout=3)
        await running
    assert not is_alive(deaf)


async def test_when_the_fork_server_is_killed_its_processes_end_and_are_started_again(tmp_path: Path) -> None:
    roles: tuple[Role, ...] = ("broker", "gateway")
    async with supervised(*(launch(role, tmp_path) for role in roles)) as (supervisor, running, said):
        await eventually_async(lambda: all(pid_in(tmp_path / role) for role in roles))
        supervisor.answers()
        first = [pid_in(tmp_path / role) for role in roles]
        os.kill(pid_in(tmp_path / "forks"), signal.SIGKILL)
        await eventually_async(
            lambda: all(pid_in(tmp_path / role) != pid for role, pid in zip(roles, first, strict=True))
        )
        assert not any(map(is_alive, first))
        assert not running.done()
    why = "with the fork server that all are started by"
    assert sorted(said) == [f"{role} ended ({why}); starting it again" for role in roles]


@pytest.mark.parametrize("stopped", ["broker", "forks"])
async def test_what_is_stopped_is_woken_to_end_in_order(tmp_path: Path, stopped: str) -> None:
    async with supervised(launch("broker", tmp_path)) as (supervisor, running, _):
        await eventually_async(lambda: pid_in(tmp_path / "broker"))
        os.kill(pid_in(tmp_path / stopped), signal.SIGSTOP)
        await asyncio.wait_for(supervisor.stop(), timeout=60)
        await running
    assert (tmp_path / "stopped").read_text() == "broker\n"


async def test_a_fork_server_whose_supervisor_is_gone_ends_with_all_that_it_has(tmp_path: Path) -> None:
    hurried = FORK_SERVER.replace("child.main = run", "child.main, child.ORPHAN_GRACE_S = run, 0")
    parts = StartedParts(ForkServerStart(environment(), (sys.executable, "-P", "-c", hurried)))
    await parts.start(launch("broker", tmp_path, is_deaf=True))
    await eventually_async(lambda: pid_in(tmp_path / "broker"))
    broker, forks = (pid_in(tmp_path / name) for name in ("broker", "forks"))
    os.kill(broker, signal.SIGSTOP)
    assert parts._socket is not None
    parts._socket.shutdown(socket.SHUT_RDWR)  # as the kernel does at its end
    await eventually_async(lambda: not is_alive(forks))
    assert not is_alive(broker)
    await parts.close()
