"""Folders and files made here are their owner's alone, whatever the umask; those of others are seen."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchrelay.shared import private_files

#: Nobody's number on any machine.
STRANGER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o277, 0o777], ids=oct)
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("any_umask")
def test_folders_and_files_are_made_for_their_owner_whatever_the_umask(tmp_path: Path) -> None:
    private_files.make_folder(tmp_path / "above" / "folder")
    private_files.make_file(tmp_path / "above" / "folder" / "file")
    assert mode(tmp_path / "above") == mode(tmp_path / "above" / "folder") == 0o700
    assert mode(tmp_path / "above" / "folder" / "file") == 0o600


@pytest.mark.usefixtures("any_umask")
def test_a_umask_takes_nothing_from_ourselves_once_that_was_asked_for(tmp_path: Path) -> None:
    private_files.keep_own_rights()
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert mode(tmp_path / "file") & 0o600 == 0o600
    assert mode(tmp_path / "folder") & 0o700 == 0o700


def test_a_file_that_was_open_to_others_is_taken_from_them_and_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "file").chmod(0o666)
    private_files.make_file(tmp_path / "file")
    assert (mode(tmp_path / "file"), (tmp_path / "file").read_text()) == (0o600, "content")


def test_a_folder_that_is_there_keeps_its_mode_until_it_is_known_to_be_ours_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o775)
    (folder / "ours").touch()
    private_files.make_folder(folder)
    assert mode(folder) == 0o775
    assert private_files.tighten(folder, {"ours"}.__contains__) is None
    assert mode(folder) == 0o700


@pytest.mark.parametrize("left", ["other things", "sticky", "setgid"])
def test_a_folder_that_others_may_have_business_in_is_left_and_told(tmp_path: Path, left: str) -> None:
    (tmp_path / ("theirs" if left == "other things" else "ours")).touch()
    before = {"other things": 0o755, "sticky": 0o1777, "setgid": 0o2775}[left]
    tmp_path.chmod(before)
    told = private_files.tighten(tmp_path, {"ours"}.__contains__)
    assert told == f"{tmp_path} is open to other users (mode {before:04o})"
    assert mode(tmp_path) == before


@needs_root
def test_another_users_folder_is_never_changed(tmp_path: Path) -> None:
    os.chown(tmp_path, STRANGER, STRANGER)
    tmp_path.chmod(0o755)
    assert private_files.tighten(tmp_path, lambda name: True) is not None
    assert mode(tmp_path) == 0o755


@needs_root
@pytest.mark.parametrize("kind", ["folder", "link", "file"])
def test_what_another_user_has_laid_into_a_folder_of_everybodys_is_not_entered(
    tmp_path: Path, kind: str
) -> None:
    tmp_path.chmod(0o1777)
    trap, elsewhere = tmp_path / "trap", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "link":
        trap.symlink_to(elsewhere)
    else:
        trap.mkdir() if kind == "folder" else trap.touch()
    os.chown(trap, STRANGER, STRANGER, follow_symlinks=False)
    make = private_files.make_file if kind == "file" else private_files.make_folder
    with pytest.raises(PermissionError, match="another user has made it"):
        make(trap)
    assert not list(elsewhere.iterdir())


@needs_root
def test_a_link_of_another_users_is_not_followed_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    private_files.make_folder(tmp_path / "link")  # our own may lead to another disk
    os.lchown(tmp_path / "link", STRANGER, STRANGER)
    with pytest.raises(PermissionError):
        private_files.make_folder(tmp_path / "link")


@needs_root
def test_another_users_folder_in_one_that_isnt_everybodys_may_be_meant(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    os.chown(tmp_path / "volume", STRANGER, STRANGER)
    private_files.make_folder(tmp_path / "volume")


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        private_files.make_folder(tmp_path / "file")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    for content in (b"one", b"two"):
        private_files.replace(path, content)
        assert path.read_bytes() == content
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        private_files.replace(path, b"three")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
