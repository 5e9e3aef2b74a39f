"""The folders of a run: a private one for its socket, and its state, which may be as temporary.

A run holds a lock in its private folder. What a killed one left behind is found by that, and removed by the
next run of the same user.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from torchrelay.cli import compose
from torchrelay.cli.faults import Fault

PREFIX = "torchrelay-"
LOCK_NAME = "run.lock"


class Folders(msgspec.Struct, frozen=True):
    """Where a run keeps what it has: its socket in one of mode 0700, the rest in its state."""

    sockets: str
    state: Path


@contextmanager
def folders(state_dir: str | None) -> Iterator[Folders]:
    """Make the folders of a run; without a state folder of its own, its state goes at the end."""
    # $TMPDIR may be too long a path for a socket; /tmp is not.
    parent = tempfile.gettempdir()
    parent = parent if compose.fits_socket(f"{parent}/{PREFIX}12345678") else "/tmp"
    remove_leftovers(Path(parent), os.getuid())
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent, ignore_cleanup_errors=True) as private,
        _lock(Path(private)),
    ):
        state = Path(private) / "state" if state_dir is None else Path(state_dir).absolute()
        try:
            (state / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Fault(
                f"{state} can't be used: {error.strerror}; choose another with --state-dir"
            ) from error
        yield Folders(private, state)


def remove_leftovers(parent: Path, user_id: int) -> None:
    """Remove the private folders of a user's runs that are gone, however they went."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            if not _belongs_to(folder, user_id):
                continue
            with (folder / LOCK_NAME).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # it lives, or has only just been made
            continue


def _belongs_to(folder: Path, user_id: int) -> bool:
    """Tell whether it is a folder of this user's: what others put into theirs may hang whoever opens it."""
    facts = folder.lstat()
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == user_id


def _lock(folder: Path) -> IO[bytes]:
    """Lock a folder for as long as the file is open, so that it is never seen with a lock that is free."""
    lock = (folder / f"{LOCK_NAME}.new").open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / f"{LOCK_NAME}.new").rename(folder / LOCK_NAME)
    return lock
