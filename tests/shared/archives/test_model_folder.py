"""A folder's links: those that stay in it are followed, those that leave it are refused, whenever they do."""

import os
import socket
import stat
from pathlib import Path

import pytest

from torchrelay.shared.archives import model_archive, model_folder
from torchrelay.shared.archives.model_folder import Bounds, walk
from torchrelay.shared.errors import InvalidModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key.json").write_text("secret")
    (tmp_path / "model" / "lib").mkdir(parents=True)
    (tmp_path / "model" / "h.py").write_text("x = 1")
    (tmp_path / "model" / "lib" / "inner.py").write_text("y = 1")
    return tmp_path / "model"


def packed(folder: Path, *targets: Path) -> list[str]:
    model_archive.pack_folder(folder, folder.parent / "m.mar", targets)
    out = folder.parent / "out"
    model_archive.extract(folder.parent / "m.mar", out)
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def link_a_file(folder: Path) -> None:
    (folder / "weights.bin").symlink_to(folder.parent / "secrets" / "key.json")


def link_a_file_relatively(folder: Path) -> None:
    (folder / "lib" / "weights.bin").symlink_to("../../secrets/key.json")


def link_a_folder(folder: Path) -> None:
    (folder / "deep").symlink_to("../secrets")


def link_through_a_link_within(folder: Path) -> None:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("../secrets")
    (folder / "weights.bin").symlink_to("one/key.json")


def link_out_and_back(folder: Path) -> None:
    (folder / "up").symlink_to("..")


def link_the_manifest(folder: Path) -> None:
    (folder / "MAR-INF").mkdir()
    (folder / "MAR-INF" / "MANIFEST.json").symlink_to("../../secrets/key.json")


def begin_with_the_same_name(folder: Path) -> None:
    other = folder.with_name("model-of-another")
    other.mkdir()
    (other / "key.json").write_text("secret")
    (folder / "weights.bin").symlink_to(other / "key.json")


def be_one_folder_that_is_a_link(folder: Path) -> None:
    for path in (folder / "h.py", folder / "lib" / "inner.py"):
        path.unlink()
    (folder / "lib").rmdir()
    (folder / "only").symlink_to("../secrets")


@pytest.mark.parametrize(
    "leave",
    [link_a_file, link_a_file_relatively, link_a_folder, link_through_a_link_within, link_out_and_back,
     link_the_manifest, begin_with_the_same_name, be_one_folder_that_is_a_link],
)  # fmt: skip
def test_a_link_that_leaves_the_folder_is_refused_by_name_and_target(folder: Path, leave: object) -> None:
    assert callable(leave)
    leave(folder)
    with pytest.raises(InvalidModel, match=r"^'.*' leads to '/.*', which is not in the model's folder"):
        packed(folder)
    assert not (folder.parent / "m.mar").exists()


def test_links_within_the_folder_and_to_folders_that_were_named_are_followed(folder: Path) -> None:
    (folder / "..data").symlink_to("lib")
    (folder / "inner.py").symlink_to("..data/inner.py")
    (folder / "absolute.py").symlink_to(folder / "h.py")
    (folder / "gone").symlink_to("../nowhere")
    (folder / "loop").symlink_to(".")
    assert packed(folder) == ["..data/inner.py", "absolute.py", "h.py", "inner.py", "lib/inner.py"]
    link_a_file(folder)
    assert "weights.bin" in packed(folder, folder.parent / "secrets")


def test_a_model_may_be_reached_through_links_above_it(folder: Path) -> None:
    (folder.parent / "store").symlink_to(folder.parent)
    model_archive.pack_folder(folder.parent / "store" / "model", folder.parent / "m.mar")
    (folder.parent / "linked").symlink_to(folder)
    with pytest.raises(InvalidModel, match="leads to"):
        model_archive.pack_folder(folder.parent / "linked", folder.parent / "m.mar")


def test_what_is_neither_file_nor_folder_is_passed_over(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    os.mknod(folder / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        assert packed(folder) == ["h.py", "lib/inner.py"]


def test_a_hard_link_to_a_file_of_another_user_is_refused(folder: Path) -> None:
    os.link(folder / "h.py", folder / "own.py")
    assert "own.py" in packed(folder)
    os.chown(folder, 12345, 12345)
    with pytest.raises(InvalidModel, match="is a hard link to a file of another user"):
        packed(folder)


def test_a_link_that_is_turned_between_look_and_read_is_refused(folder: Path) -> None:
    bounds = Bounds(folder)
    files = dict(walk(folder, bounds))
    with bounds.open(files["lib/inner.py"]) as file:
        assert file.read() == b"y = 1"
    (folder / "h.py").unlink()
    (folder / "h.py").symlink_to("../secrets/key.json")
    with pytest.raises(InvalidModel, match="leads to"):
        bounds.open(files["h.py"])
    (folder / "lib").rename(folder.parent / "was lib")
    (folder / "lib").symlink_to("../secrets")
    (folder.parent / "secrets" / "inner.py").write_text("secret")
    with pytest.raises(InvalidModel, match="leads to"):
        bounds.open(files["lib/inner.py"])
    os.mkfifo(folder / "fifo")
    with pytest.raises(InvalidModel, match="is no file any more"):
        bounds.open(folder / "fifo")


def test_links_that_multiply_a_tree_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two links to the next folder in each of 30 make a tree of a thousand million folders."""
    monkeypatch.setattr(model_folder, "LOOKS_LIMIT", 1000)
    for depth in range(30):
        (folder / f"{depth}").mkdir()
        for name in ("a", "b"):
            (folder / f"{depth}" / name).symlink_to(f"../{depth + 1}")
    with pytest.raises(InvalidModel, match="lead to more than 1000 files and folders"):
        packed(folder)


def test_links_that_multiply_content_are_refused_before_the_disk_is_full(folder: Path) -> None:
    with (folder / "large").open("wb") as file:
        file.truncate(1 << 40)
    for number in range(500):
        (folder / f"again{number}").symlink_to("large")
    with pytest.raises(OSError, match="bytes are needed in"):
        packed(folder)
    assert not (folder.parent / "m.mar").exists()
