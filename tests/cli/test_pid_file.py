"""The pid file: who holds it, what a dead server leaves behind, and what is not ours to touch."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import eventually
from torchrelay.cli import pid_file

#: Inherits the lock and holds it until it is told to stop.
HOLDER = "import signal; signal.sigwait({signal.SIGTERM})"
#: Removes the file where opening it is as in a sticky folder with fs.protected_regular, which refuses whoever
#: doesn't own a file that is there, root too, an open that would make it if it weren't.
PROTECTED = """
import os, sys
from pathlib import Path
from torchrelay.cli import pid_file

path = Path(sys.argv[1])

def protect(event, arguments):
    if event == "open" and os.fspath(arguments[0]) == str(path) and path.exists():
        if arguments[2] & os.O_CREAT and not arguments[2] & os.O_EXCL:
            raise PermissionError(13, "Permission denied")

sys.addaudithook(protect)
assert pid_file.remove(path)
os.close(pid_file.take(path))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / pid_file.NAME


def hold(path: Path) -> "subprocess.Popen[bytes]":
    lock = pid_file.take(path)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], pass_fds=(lock,))
    pid_file.write(lock, holder.pid)
    os.close(lock)
    return holder


def test_nobody_runs_where_there_is_no_file(path: Path) -> None:
    assert pid_file.running_pid(path) is None
    assert not pid_file.remove(path)


def test_the_process_that_inherited_the_lock_is_found_by_its_pid(path: Path) -> None:
    with hold(path) as holder:
        assert pid_file.running_pid(path) == holder.pid
        assert path.read_text() == str(holder.pid)
        with pytest.raises(pid_file.AlreadyRunning):
            pid_file.take(path)
        assert not pid_file.remove(path)
        assert not pid_file.wait_until_free(path, within_s=0.1)
        holder.terminate()
    assert pid_file.wait_until_free(path, within_s=5)


def test_the_pid_of_a_server_that_is_being_started_is_waited_for(path: Path) -> None:
    path.write_text("1")  # of one that was here before, and has become another's
    lock = pid_file.take(path)
    assert pid_file.running_pid(path) == 0
    assert pid_file.written_pid(path, within_s=0) == 0
    with ThreadPoolExecutor() as threads:
        found = threads.submit(pid_file.written_pid, path, 20)
        pid_file.write(lock, 77)
        assert found.result(20) == 77
    os.close(lock)
    assert pid_file.written_pid(path, within_s=0) is None


def test_a_killed_server_leaves_a_file_that_counts_for_nothing(path: Path) -> None:
    with hold(path) as holder:
        holder.send_signal(signal.SIGKILL)
    eventually(lambda: pid_file.running_pid(path) is None)
    assert pid_file.remove(path)
    assert not path.exists()


def test_root_removes_what_the_server_of_another_user_has_left(path: Path) -> None:
    path.write_text("77")
    words = [sys.executable, "-c", PROTECTED, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert path.read_text() == ""


@pytest.mark.parametrize(
    "content", [str(os.getpid()), "1", "", "junk", "-1"], ids=["alive", "init", "empty", "junk", "negative"]
)
def test_a_pid_without_a_lock_is_never_taken_for_a_servers(path: Path, content: str) -> None:
    path.write_text(content)
    assert pid_file.running_pid(path) is None
    os.close(pid_file.take(path))


def test_a_link_that_somebody_laid_there_is_not_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        pid_file.take(path)
    assert victim.read_text() == "precious"


def test_a_file_that_was_removed_in_between_is_made_anew(path: Path) -> None:
    first = pid_file.take(path)
    path.unlink()
    second = pid_file.take(path)
    try:
        assert path.exists()
        assert not os.path.samestat(os.fstat(first), os.fstat(second))
    finally:
        os.close(first)
        os.close(second)
