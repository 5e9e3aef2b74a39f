"""Folders of a run: private, gone at the end, and what a killed run leaves is found by the next."""

import fcntl
import os
import resource
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from torchrelay.cli.faults import Fault
from torchrelay.cli.start.folders import (
    LOCK_NAME,
    PREFIX,
    Temporary,
    cache_of_node,
    choose_cache,
    folders,
    remove_leftovers,
    require_usable_state,
    user_cache,
)
from torchrelay.shared import private_files


def own(tmp_path: Path, **variables: str) -> dict[str, str]:
    """Make an environment whose temporary folder and home are a test's own."""
    return {"TMPDIR": tempfile.gettempdir(), "HOME": str(tmp_path / "home"), **variables}


def test_folders_of_a_run_are_private_and_temporary_ones_go(tmp_path: Path) -> None:
    with folders(str(tmp_path / "state"), None, own(tmp_path)) as kept:
        assert stat.S_IMODE(Path(kept.sockets).stat().st_mode) == 0o700
        assert (tmp_path / "state" / "logs").is_dir()
    assert not Path(kept.sockets).exists()
    assert (tmp_path / "state").is_dir()
    with folders(None, None, own(tmp_path)) as gone:
        assert gone.state.is_dir()
    assert not gone.state.exists()


def test_a_state_folder_that_can_not_be_made_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(Fault, match="--state-dir"),
        folders(str(tmp_path / "file" / "state"), None, own(tmp_path)),
    ):
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
    with folders(None, None, own(tmp_path)) as running:
        remove_leftovers(Path(running.sockets).parent, os.getuid())
        assert running.state.is_dir()


def folder_of(path: Path | str) -> Path:
    """Return the parent of a run's private folder from something in it."""
    return next(
        parent.parent for parent in (Path(path), *Path(path).parents) if parent.name.startswith(PREFIX)
    )


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Path]:
    """A folder with a path short enough for a socket, which that of a test needn't be."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("variables", "home_of_user", "expected"),
    [
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/u", "/x/torchrelay"),
        ({"XDG_CACHE_HOME": "x", "HOME": "/h"}, "/u", "/h/.cache/torchrelay"),
        ({"HOME": "/"}, "/u", "/.cache/torchrelay"),
        ({"HOME": ""}, "/u", "/u/.cache/torchrelay"),
        ({"HOME": "h"}, None, None),
        ({}, "", None),
        ({}, None, None),
    ],
)
def test_the_users_cache_is_an_absolute_path_or_there_is_none(
    variables: dict[str, str], home_of_user: str | None, expected: str | None
) -> None:
    assert user_cache(variables, home_of_user) == (Path(expected) if expected else None)


def test_a_cache_that_is_named_is_taken_and_must_work(tmp_path: Path) -> None:
    environ = own(tmp_path, TORCHRELAY_CACHE_DIR=str(tmp_path / "variable"))
    with cache_of_node(str(tmp_path / "option"), environ) as cache:
        assert (cache.folder, cache.warnings) == (tmp_path / "option", ())
    with folders(None, None, {**environ, "TEMP": tempfile.gettempdir()}, large_in_temp=True) as made:
        assert made.cache == tmp_path / "variable"
    (tmp_path / "file").touch()
    environ["TORCHRELAY_CACHE_DIR"] = str(tmp_path / "file" / "cache")
    with pytest.raises(Fault, match=r"file/cache can't be used: Not a directory; .*TORCHRELAY_CACHE_DIR"):
        cache_of_node(None, environ).__enter__()


@pytest.mark.parametrize("in_the_way", ["home", "home/.cache", "home/.cache/torchrelay/models"])
def test_a_home_that_can_not_be_written_gives_way_to_a_temporary_folder(
    tmp_path: Path, in_the_way: str
) -> None:
    (tmp_path / in_the_way).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / in_the_way).touch()
    with folders(None, None, own(tmp_path)) as made:
        assert folder_of(made.cache) == Path(tempfile.gettempdir())
        assert len(made.warnings) == 1
        for words in ("home/.cache/torchrelay can't be used", "TORCHRELAY_CACHE_DIR"):
            assert words in made.warnings[0]
    assert not made.cache.exists()


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("is_temporary_noexec", [False, True])
def test_a_cache_that_nothing_can_be_loaded_from_is_told_and_left_if_nobody_named_it(
    tmp_path: Path, named: bool, is_temporary_noexec: bool
) -> None:
    def is_noexec(folder: Path) -> bool:
        return is_temporary_noexec or folder.is_relative_to(tmp_path)

    with ExitStack() as stack:
        environ = own(tmp_path)
        temporary = Temporary(environ, stack)
        option = str(tmp_path / "named") if named else None
        cache = choose_cache(option, environ, temporary, is_noexec)
        stays = named or is_temporary_noexec
        assert cache.folder.is_relative_to(tmp_path) == stays
        assert len(cache.warnings) == 1
        assert ("can't be loaded from it" if stays else "until this run ends") in cache.warnings[0]
        assert "noexec" in cache.warnings[0]


def test_torchserves_temp_has_all_that_is_large(tmp_path: Path, short: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    with folders(None, None, own(tmp_path, TMPDIR=str(short), TEMP=str(large)), large_in_temp=True) as made:
        assert [folder_of(path) for path in (made.state, made.cache)] == [large, large]
        assert folder_of(made.sockets) == short
        assert made.warnings == ()
    assert list(large.iterdir()) == list(short.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(Fault, match=r"file: Not a directory.*TEMP"):
        folders(None, None, own(tmp_path, TEMP=str(tmp_path / "file")), large_in_temp=True).__enter__()


def test_a_socket_lies_where_its_path_is_short_enough(tmp_path: Path, short: Path) -> None:
    long = tmp_path / ("long" * 40)
    long.mkdir()
    with folders(None, None, own(tmp_path, TMPDIR=str(long), TEMP=str(short))) as made:
        assert (folder_of(made.state), folder_of(made.sockets)) == (long, short)
        assert made.warnings == ()


def test_a_temporary_folder_that_is_gone_is_told_and_passed_over(tmp_path: Path, short: Path) -> None:
    gone = tmp_path / "gone"
    with folders(None, None, own(tmp_path, TMPDIR=str(gone), TMP=str(short))) as made:
        assert folder_of(made.sockets) == folder_of(made.state) == short
        assert made.warnings == (
            f"TMPDIR={gone} can't be used (No such file or directory): it is passed over",
        )


def test_without_any_temporary_folder_the_fault_names_what_was_tried(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchrelay.cli.start.folders.SYSTEM_TEMPORARY", (str(short / "system"),))
    with pytest.raises(Fault, match=r"own: No such .*; .*system: No such .*TMPDIR"):
        folders(None, None, own(tmp_path, TMPDIR=str(short / "own"))).__enter__()


@pytest.mark.parametrize("part", ["", "archives"])
def test_a_state_folder_of_which_a_part_can_not_be_written_is_a_fault(tmp_path: Path, part: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / (part or "logs")).touch()
    with pytest.raises(Fault, match=r"state can't be used: .*TORCHRELAY_STATE_DIR"):
        folders(str(tmp_path / "state"), None, own(tmp_path)).__enter__()


def test_a_state_folder_without_room_for_a_registry_is_a_fault(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(Fault, match=r"state can't be used: File too large"):
            require_usable_state(tmp_path / "state")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    require_usable_state(tmp_path / "state")
    assert [path for path in (tmp_path / "state").rglob("*") if path.is_file()] == []


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
def test_folders_are_their_users_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        private_files.keep_own_rights()
        with folders(str(tmp_path / "above" / "state"), str(tmp_path / "cache"), own(tmp_path)) as made:
            everything = [
                tmp_path / "above",
                made.state,
                made.cache,
                *made.state.iterdir(),
                Path(made.sockets),
            ]
            assert {mode(path) for path in [*everything, *made.cache.iterdir()]} == {0o700}
            assert made.warnings == ()
    finally:
        os.umask(before)


def test_folders_of_ours_that_were_open_are_closed_and_others_are_told(tmp_path: Path) -> None:
    for name in ("state", "cache", "home"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "home" / "other things").touch()
    (tmp_path / "state" / "registry.sqlite-wal").touch()
    with folders(str(tmp_path / "state"), str(tmp_path / "cache"), own(tmp_path)) as made:
        assert (mode(made.state), mode(made.cache), made.warnings) == (0o700, 0o700, ())
    with folders(str(tmp_path / "home"), str(tmp_path / "cache"), own(tmp_path)) as made:
        assert mode(made.state) == 0o755
        assert len(made.warnings) == 1
        assert f"{made.state} is open to other users (mode 0755)" in made.warnings[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")
def test_a_state_folder_that_another_user_has_laid_into_tmp_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / ".torchrelay").mkdir()
    os.chown(tmp_path / ".torchrelay", 54321, 54321)
    with pytest.raises(
        Fault, match="can't be used: another user has made it; choose another with --state-dir"
    ):
        require_usable_state(tmp_path / ".torchrelay")
