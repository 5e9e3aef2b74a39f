"""Folders of a run: private, gone at the end, and what a killed run leaves is found by the next."""

import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from torchrelay.cli.faults import Fault
from torchrelay.cli.folders import LOCK_NAME, PREFIX, folders, remove_leftovers


def test_folders_of_a_run_are_private_and_temporary_ones_go(tmp_path: Path) -> None:
    with folders(str(tmp_path / "state")) as kept:
        assert stat.S_IMODE(Path(kept.sockets).stat().st_mode) == 0o700
        assert (tmp_path / "state" / "logs").is_dir()
    assert not Path(kept.sockets).exists()
    assert (tmp_path / "state").is_dir()
    with folders(None) as gone:
        assert gone.state.is_dir()
    assert not gone.state.exists()


def test_a_state_folder_that_can_not_be_made_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Fault, match="--state-dir"), folders(str(tmp_path / "file" / "state")):
        pass


def leave(parent: Path, name: str, lock: bool = True) -> Path:
    folder = parent / f"{PREFIX}{name}"
    (folder / "state").mkdir(parents=True)
    if lock:
        (folder / LOCK_NAME).touch()
    return folder


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = leave(tmp_path, "dead")
    just_made = leave(tmp_path, "new", lock=False)
    alive = leave(tmp_path, "alive")
    stranger = tmp_path / "other"
    stranger.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(leave(tmp_path / "elsewhere", "target"))
    with (alive / LOCK_NAME).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_leftovers(tmp_path, os.getuid())
    assert not dead.exists()
    assert just_made.exists()
    assert alive.exists()
    assert stranger.exists()
    assert (tmp_path / "elsewhere" / f"{PREFIX}target" / "state").exists()


def test_what_lies_in_another_users_folder_is_not_even_opened(tmp_path: Path) -> None:
    theirs = tmp_path / f"{PREFIX}theirs"
    theirs.mkdir()
    os.mkfifo(theirs / LOCK_NAME)  # to open it is to wait for whoever writes
    looking = threading.Thread(target=remove_leftovers, args=(tmp_path, os.getuid() + 1), daemon=True)
    looking.start()
    looking.join(10)
    assert not looking.is_alive()
    assert theirs.exists()


def test_a_run_is_never_removed_by_another_while_it_lasts(tmp_path: Path) -> None:
    with folders(None) as running:
        remove_leftovers(Path(running.sockets).parent, os.getuid())
        assert running.state.is_dir()
