"""Folders and files for their owner alone, whatever the umask; those of others are told apart.

Ours is what this process's user owns. In a folder that everybody writes to, such as /tmp, anybody may have
laid a folder, a link or a pipe where ours is to be: what another user has made is not entered there.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

FOLDER_MODE, FILE_MODE = 0o700, 0o600
#: What others may do with a folder or file.
OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITING = stat.S_IWGRP | stat.S_IWOTH
#: Somebody has set a folder with these up for several users.
_SHARED = stat.S_ISVTX | stat.S_ISGID
_ROOT = 0


def keep_own_rights() -> None:
    """Take from the umask what it takes from this user itself: files that we make are there to be used."""
    os.umask(os.umask(OTHERS) & OTHERS)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone; what is there stays as it is.

    Raises OSError; also where it is a link, or lies in a folder of everybody's, and another user has made it.
    """
    if not folder.parent.exists():
        make_folder(folder.parent)
    try:
        folder.mkdir(FOLDER_MODE)
    except FileExistsError:
        refuse_others(folder)
        if not folder.is_dir():
            raise
    else:
        folder.chmod(FOLDER_MODE)  # of which the umask may have taken something


def is_folder_of(path: Path, user_id: int) -> bool:
    """Return whether this is a folder that belongs to the user, and no link to one."""
    try:
        facts = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == user_id


def refuse_others(path: Path) -> None:
    """Raise PermissionError for what another user may have laid there to be taken for ours.

    That is a link, and what lies in a folder that everybody writes to. What isn't there is nobody's.
    """
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if facts.st_uid in (os.geteuid(), _ROOT):
        return
    parent = path.absolute().parent.stat()
    if stat.S_ISLNK(facts.st_mode) or parent.st_mode & stat.S_IWOTH:
        raise PermissionError(None, "another user has made it", str(path))


def tighten(folder: Path, is_ours: Callable[[str], bool]) -> str | None:
    """Keep others out of a folder that is ours and holds nothing else; say why where that can't be.

    `is_ours` tells by the name of an entry whether it is one that we make. A folder that holds other things,
    is another user's or was set up for several users is left as it is.
    """
    facts = folder.stat()
    if not facts.st_mode & OTHERS:
        return None
    is_own = facts.st_uid == os.geteuid() and not facts.st_mode & _SHARED
    if is_own and all(map(is_ours, os.listdir(folder))):
        folder.chmod(stat.S_IMODE(facts.st_mode) & FOLDER_MODE)
        return None
    return f"{folder} is open to other users (mode {stat.S_IMODE(facts.st_mode):04o})"


def make_file(path: Path) -> None:
    """Make a file for this user alone; one that is there is taken from others. Raises OSError."""
    refuse_others(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        keep_to_owner(fd, OTHERS)
    finally:
        os.close(fd)


def replace(path: Path, content: bytes) -> None:
    """Write a file for this user alone: it is on disk, whole, or nothing has changed. Raises OSError."""
    refuse_others(path)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)  # it is there only if something failed
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def opener(path: str, flags: int) -> int:
    """Open a file for `open`, which makes it for this user alone."""
    return os.open(path, flags, FILE_MODE)


def append_to(path: Path) -> IO[bytes]:
    """Open a file to append to, made for this user alone. Raises OSError."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE), "ab")


def keep_to_owner(fd: int, rights: int = _WRITING) -> None:
    """Take these rights of others from a file that is this user's; by default those to write."""
    facts = os.fstat(fd)
    mode = (stat.S_IMODE(facts.st_mode) | FILE_MODE) & ~rights
    if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid() and mode != stat.S_IMODE(facts.st_mode):
        os.fchmod(fd, mode)
