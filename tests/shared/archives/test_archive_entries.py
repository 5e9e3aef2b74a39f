"""Entries of archives, checked before anything is made of them."""

import io
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from torchrelay.shared.archives import archive_entries
from torchrelay.shared.errors import InvalidModel


def zip_of(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def tar_of(path: Path, entries: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def contents(path: Path) -> dict[str, bytes]:
    found = {}
    for entry in archive_entries.checked_entries(path):
        if entry.open is not None:
            with entry.open() as file:
                found[str(entry.path)] = file.read()
    return found


@pytest.mark.parametrize("name", ["a.py", "a/b/c.py", "a/./b", "a\\b", "a//b", " ", "..."])
def test_a_path_below_the_folder_is_kept(name: str) -> None:
    assert archive_entries.safe_path(name) == PurePosixPath(name.replace("\\", "/"))


@pytest.mark.parametrize("name", ["/a", "../a", "a/../../b", "a/..", "..\\a", "C:\\a", "c:a", "\\a", "a\0b"])
def test_a_path_that_leads_out_of_the_folder_is_refused(name: str) -> None:
    with pytest.raises(InvalidModel, match="points outside"):
        archive_entries.safe_path(name)


@pytest.mark.parametrize(
    "name",
    [
        "a" * (archive_entries.NAME_LIMIT_BYTES + 1),
        "ä" * (archive_entries.NAME_LIMIT_BYTES // 2 + 1),
        "/".join(["a"] * (archive_entries.DEPTH_LIMIT + 1)),
        "/".join(["a" * 250] * 9),
    ],
)
def test_a_path_that_no_disk_could_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidModel, match="too long"):
        archive_entries.safe_path(name)


def test_a_zip_and_a_tar_of_the_same_give_the_same(tmp_path: Path) -> None:
    files = {"handler.py": b"code", "weights/a.pt": b"\0" * 100}
    assert contents(zip_of(tmp_path / "m.mar", files)) == files
    # The first component of a tar is dropped, as in TorchServe.
    inside = {f"m/{name}": content for name, content in files.items()}
    assert contents(tar_of(tmp_path / "m.tar.gz", inside)) == files


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b")])
def test_what_is_a_file_and_a_folder_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = zip_of(tmp_path / "m.mar", dict.fromkeys(names, b""))
    with pytest.raises(InvalidModel, match="both a file and a folder"):
        contents(path)


def test_a_link_is_refused_in_either_form(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as file:
        file.writestr(link, "/etc/passwd")
    info = tarfile.TarInfo("m/link")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as tar:
        tar.addfile(info)
    for name in ("m.mar", "m.tar.gz"):
        with pytest.raises(InvalidModel, match="a link or a device"):
            contents(tmp_path / name)


def test_an_archive_that_would_fill_a_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zip_of(tmp_path / "m.mar", {"zeros": b"\0" * 10_000})
    monkeypatch.setattr(archive_entries, "RATIO_FLOOR_BYTES", 100)
    monkeypatch.setattr(archive_entries, "RATIO_LIMIT", 10)
    assert contents(path)
    monkeypatch.setattr(archive_entries, "TOTAL_LIMIT_BYTES", 9_999)
    with pytest.raises(InvalidModel, match="would unpack to more"):
        contents(path)


def test_an_archive_of_too_many_entries_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_entries, "ENTRY_LIMIT", 3)
    many = {f"m/{number}": b"" for number in range(4)}
    for path in (zip_of(tmp_path / "m.mar", many), tar_of(tmp_path / "m.tar.gz", many)):
        with pytest.raises(InvalidModel, match="more than 3 entries"):
            contents(path)


def test_what_is_neither_a_zip_nor_a_tar_is_none(tmp_path: Path) -> None:
    path = tmp_path / "m.mar"
    path.write_bytes(b"text")
    with pytest.raises(archive_entries.BROKEN):
        contents(path)
