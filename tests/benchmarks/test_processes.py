import os
import subprocess
import sys

import pytest
import zmq

from benchmarks import processes
from tests.support import eventually

CHILD = ["python", "-P", "-m", "torchrelay.cli.start.child"]


@pytest.mark.parametrize(
    ("command", "parent", "role"),
    [
        (["python", "torchrelay", "serve"], None, "serve"),
        (["python", "-P", "-m", "torchrelay.cli.start.part_forks", "8"], "serve", "fork server"),
        (["torchrelay broker", ""], "fork server", "broker"),
        (["gunicorn: master [torchrelay gateway]", ""], "fork server", "gateway arbiter"),
        (["gunicorn: worker [torchrelay gateway]", ""], "gateway arbiter", "gateway process"),
        (["torchrelay", "node"], "fork server", "node"),
        (["torchrelay", "launcher"], "node", "launcher"),
        (["torchrelay", "worker", "3", "echo", "1.0"], "launcher", "model worker"),
        ([*CHILD, "broker"], "serve", "broker"),
        ([*CHILD, "gateway"], "serve", "gateway arbiter"),
        ([*CHILD, "gateway"], "gateway arbiter", "gateway process"),
        ([*CHILD, "worker"], "serve", "node"),
        (["python", "-m", "torchrelay.worker.launcher", "5"], "node", "launcher"),
        (["python", "-m", "torchrelay.worker.launcher", "5"], "launcher", "model worker"),
        (["/bin/true"], "serve", "other"),
    ],
)
def test_each_process_of_serve_is_named_by_its_command_and_parent(
    command: list[str], parent: str | None, role: str
) -> None:
    assert processes.torchrelay_role(command, parent) == role


@pytest.mark.parametrize(
    ("command", "parent", "role"),
    [
        (["python", "torchserve", "--start"], None, "torchserve"),
        (["/usr/bin/java", "-cp", "x"], "torchserve", "frontend (Java)"),
        (["python", "/ts/model_service_worker.py"], "frontend (Java)", "model worker"),
        ([], "frontend (Java)", "other"),
    ],
)
def test_each_process_of_torchserve_is_named_by_its_command_and_parent(
    command: list[str], parent: str | None, role: str
) -> None:
    assert processes.torchserve_role(command, parent) == role


def test_the_memory_of_a_process_is_read_from_the_kernel() -> None:
    mine = processes.look("me", os.getpid(), lambda command, parent: "me" if parent is None else "child")[0]
    assert mine.role == "me"
    assert mine.rss_bytes > 1 << 20
    assert mine.pss_bytes is None or 0 < mine.pss_bytes <= mine.rss_bytes


def test_cpu_time_is_summed_by_role() -> None:
    spent = processes.cpu_seconds(os.getpid(), lambda command, parent: "all")
    assert set(spent) == {"all"}
    assert spent["all"] > 0


def test_a_childs_time_counts_once_it_has_ended_and_everybodys_at_once() -> None:
    children, everybody = processes.seconds_of_ended_children(), processes.busy_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    taken = processes.seconds_of_ended_children() - children
    assert taken > 0
    # The kernel counts the machine's time in steps of 10 ms.
    assert processes.busy_seconds() - everybody >= taken - 0.05


def test_the_threads_of_libzmq_are_counted_apart() -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR):
        eventually(lambda: processes.thread_seconds(os.getpid()).keys() == {"", "zmq"})  # once they are named
        assert processes.thread_seconds(os.getpid())[""] > 0


def test_how_long_processes_had_no_cpu_is_told_by_their_roles() -> None:
    waited = processes.seconds_without_cpu(
        os.getpid(), lambda _command, parent: "child" if parent else "root"
    )
    assert 0 <= waited["root"] <= processes.own_seconds_without_cpu(os.getpid())
    assert processes.own_seconds_without_cpu("none") == 0
