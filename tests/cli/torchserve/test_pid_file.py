"""The pid file: who holds it, what a dead server leaves behind, and what is not ours to touch."""

import fcntl
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import eventually
from torchrelay.cli.torchserve import pid_file

#: Nobody's number on any machine.
STRANGER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")
#: Inherits the lock and holds it until it is told to stop.
HOLDER = "import signal; signal.sigwait({signal.SIGTERM})"
#: Removes the file where opening it is as in a sticky folder with fs.protected_regular, which refuses whoever
#: doesn't own a file that is there, root too, an open that would make it if it weren't.
PROTECTED = """
import os, sys
from pathlib import Path
from torchrelay.cli.torchserve import pid_file

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


def give_away(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)


@pytest.mark.parametrize("kind", ["file", "locked", "link", "pipe", "folder"])
@needs_root
def test_what_another_user_has_laid_there_says_nothing_and_is_in_nobodys_way(
    path: Path, tmp_path: Path, kind: str
) -> None:
    lock = None
    match kind:
        case "link":
            path.symlink_to(tmp_path / "victim")
        case "pipe":
            os.mkfifo(path)  # to open it is to wait for whoever writes
        case "folder":
            path.mkdir()
        case _:
            path.write_text(str(os.getpid()))
    if kind == "locked":
        lock = path.open("rb")
        fcntl.flock(lock, fcntl.LOCK_EX)
    give_away(path)
    own = pid_file.place(tmp_path)
    assert own != path
    assert own.name.startswith(".model_server-")
    with hold(own) as holder:
        assert pid_file.running_pid(own) == holder.pid
        assert pid_file.place(tmp_path) == own, "it is found again"
        if kind in ("file", "locked"):
            with pytest.raises(pid_file.NotOurs):
                pid_file.running_pid(path)
            with pytest.raises(pid_file.NotOurs):
                pid_file.take(path)
            assert path.read_text() == str(os.getpid())
        holder.terminate()
    assert pid_file.place(tmp_path) == own, "what is left of it serves the next"
    assert not (tmp_path / "victim").exists()
    if lock:
        lock.close()


@needs_root
def test_a_server_with_a_file_of_its_own_is_found_when_the_other_users_is_gone(
    path: Path, tmp_path: Path
) -> None:
    path.touch()
    give_away(path)
    with hold(pid_file.place(tmp_path)) as holder:
        path.unlink()
        assert pid_file.running_pid(pid_file.place(tmp_path)) == holder.pid
        holder.terminate()
    eventually(lambda: pid_file.place(tmp_path) == path)


@needs_root
def test_root_removes_another_users_file_that_nobody_holds_and_no_other(path: Path) -> None:
    path.write_text("77")
    assert not pid_file.remove_others(path), "it is ours"
    give_away(path)
    with path.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not pid_file.remove_others(path)
    assert pid_file.remove_others(path)
    assert not path.exists()


def test_a_second_name_of_a_file_of_ours_is_not_taken_for_a_pid_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("content")
    os.link(tmp_path / "precious", path)
    assert pid_file.place(tmp_path) != path
    with pytest.raises(pid_file.NotOurs):
        pid_file.take(path)
    assert (tmp_path / "precious").read_text() == "content"


def test_a_process_is_a_server_by_its_command_line_and_its_user(path: Path) -> None:
    words = [sys.executable, "-c", HOLDER, "the.name"]
    with subprocess.Popen(words) as server, subprocess.Popen(words[:-1]) as other:
        assert pid_file.is_server(server.pid, "the.name", within_s=20)
        assert not pid_file.is_server(other.pid, "the.name", within_s=0)
        assert not pid_file.is_server(server.pid, "name", within_s=0)
        server.kill()
        other.kill()
    assert not pid_file.is_server(server.pid, "the.name", within_s=20), "it is gone"


@needs_root
def test_another_users_process_is_no_server_of_ours() -> None:
    words = [
        sys.executable,
        "-c",
        f"import os; os.setuid({STRANGER}); print(flush=True); {HOLDER}",
        "the.name",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as theirs:
        assert theirs.stdout is not None
        theirs.stdout.readline()
        assert not pid_file.is_server(theirs.pid, "the.name", within_s=0)
        theirs.kill()


def test_a_file_of_ours_that_somebody_else_has_locked_is_made_anew(path: Path) -> None:
    path.write_text(str(os.getpid()))
    with path.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pid_file.discard(path)
        os.close(pid_file.take(path))
