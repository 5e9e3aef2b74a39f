"""Processes tied to their parents, for real: none outlives what started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support import eventually
from torchrelay.shared.processes import parent_death

pytestmark = pytest.mark.integration

PARENT = """
import os, signal, subprocess, sys
subprocess.Popen([sys.executable, "-P", "-c", sys.argv[1], str(os.getpid())])
signal.pause()
"""
CHILD = """
import signal, sys
from torchrelay.shared.processes.parent_death import {names}
{calls}
print("tied", flush=True)
signal.pause()
"""
TIED = CHILD.format(names="die_with_parent", calls="die_with_parent(int(sys.argv[1]))")
FREED = CHILD.format(
    names="die_with_parent, outlive_parent", calls="die_with_parent(int(sys.argv[1])); outlive_parent()"
)
#: A command that ignores being told to stop, and has a child that does so, too.
STUBBORN = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
os.write(1, b"runs\\n")
signal.pause()
"""


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def parent_of(code: str) -> "tuple[subprocess.Popen[bytes], psutil.Process]":
    """Start a parent with a child that runs this code, and wait until the child has said something."""
    parent = subprocess.Popen([sys.executable, "-P", "-c", PARENT, code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline()
    (child,) = psutil.Process(parent.pid).children()
    return parent, child


def kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate(timeout=10)


def test_the_kernel_kills_it_when_its_parent_is_killed() -> None:
    parent, child = parent_of(TIED)
    parent.kill()
    eventually(lambda: not lives(child))
    kill(parent)


def test_one_that_has_stopped_watching_goes_on() -> None:
    parent, child = parent_of(FREED)
    parent.kill()
    parent.wait(10)
    assert lives(child)
    child.kill()
    kill(parent)


def dead_pid() -> int:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(10)
    return dead.pid


def test_one_whose_parent_died_before_it_asked_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", TIED, str(dead_pid())], timeout=20, check=False)
    assert done.returncode == 1


def tied_command(*command: str, parent: int | None = None) -> "subprocess.Popen[bytes]":
    arguments = [parent_death.__file__, str(parent or os.getpid()), *command]
    return subprocess.Popen([sys.executable, "-P", *arguments], stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("print('done')", 0),
        ("raise SystemExit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
    ],
)
def test_a_command_ends_as_it_ends(code: str, exit_code: int) -> None:
    process = tied_command(sys.executable, "-c", code)
    assert process.wait(20) == exit_code
    kill(process)


def test_no_command_is_begun_for_a_parent_that_is_gone(tmp_path: Path) -> None:
    process = tied_command("/usr/bin/touch", str(tmp_path / "begun"), parent=dead_pid())
    assert process.wait(20) == 1
    kill(process)
    assert not (tmp_path / "begun").exists()


def test_a_command_goes_with_the_parent_and_so_does_what_it_has_started() -> None:
    code = f"import subprocess, sys\nsubprocess.call([sys.executable, {parent_death.__file__!r}, sys.argv[1]"
    code += f", sys.executable, '-c', {STUBBORN!r}])"
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", f"import os, sys\nsys.argv.append(str(os.getpid()))\n{code}"],
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() + parent.stdout.readline() == b"runs\nruns\n"
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) == 3
    parent.kill()
    eventually(lambda: not any(map(lives, family)))
    kill(parent)


def test_what_is_left_behind_has_a_new_parent_where_one_adopts() -> None:
    grandchild = "import os, signal\nif os.fork() == 0:\n    os.setsid()\n    signal.pause()\n"
    code = f"""
import signal, subprocess, sys
from torchrelay.shared.processes.parent_death import adopt_orphans
adopt_orphans()
subprocess.run([sys.executable, "-c", {grandchild!r}])
print("adopts", flush=True)
signal.pause()
"""
    process = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"adopts\n"
    (adopted,) = psutil.Process(process.pid).children()
    adopted.kill()
    kill(process)
