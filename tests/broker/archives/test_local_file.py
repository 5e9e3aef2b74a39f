"""Files that a caller names."""

import os
from pathlib import Path

import pytest

from torchrelay.broker.archives.local_file import chunks_of, open_regular


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"archive")
    assert b"".join(chunks_of(tmp_path / "m", 100)) == b"archive"
    (tmp_path / "link").symlink_to(tmp_path / "m")
    assert open_regular(tmp_path / "link").read() == b"archive"


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev", "/nosuch"])
def test_devices_and_folders_are_no_files(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(Path(path))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(FileNotFoundError, match="is no file"):
            open_regular(tmp_path / name)


@pytest.mark.parametrize("path", ["/proc/kmsg", "/proc/self/maps", "/proc/self/environ"])
def test_files_that_the_kernel_makes_up_are_read_no_further_than_they_say(path: str) -> None:
    with pytest.raises((OSError, ValueError)):
        list(chunks_of(Path(path), 1 << 20))


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"archive")
    with pytest.raises(ValueError, match="7 bytes"):
        next(chunks_of(tmp_path / "m", 6))


def test_a_file_that_grows_is_no_archive_and_is_read_no_further(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"archive")
    chunks = chunks_of(path, 100)
    assert next(chunks) == b"archive"
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="changed while it was read"):
        next(chunks)
