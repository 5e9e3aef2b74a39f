import gzip
import io
import json
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared.archives import archive_entries, model_archive, tar_headers
from torchrelay.shared.errors import InvalidModel, RelayError, StoreFailed

MANIFEST = {"runtime": "python", "model": {"modelName": "m", "handler": "h.py", "modelVersion": "2.0"}}


def write_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def write_tar(path: Path, entries: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def manifest_of(content: object) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def good_zip(tmp_path: Path) -> Path:
    return write_zip(
        tmp_path / "m.mar", {model_archive.MANIFEST_NAME: manifest_of(MANIFEST), "h.py": b"x = 1\n"}
    )


def test_inspecting_an_archive_tells_its_manifest_and_size(tmp_path: Path) -> None:
    info = model_archive.inspect(good_zip(tmp_path))
    assert (info.manifest.model_name, info.manifest.model_version, info.manifest.handler) == (
        "m",
        "2.0",
        "h.py",
    )
    assert info.manifest.raw == MANIFEST
    assert info.entries == 2
    assert info.notes == ()


def test_a_manifest_keeps_unknown_keys_in_its_raw_form_and_reads_numbers_as_text() -> None:
    manifest = model_archive.parse_manifest(b'{"own": [1], "model": {"modelVersion": 1.5, "extensions": {}}}')
    assert manifest.model_version == "1.5"
    assert manifest.raw == {"own": [1], "model": {"modelVersion": 1.5, "extensions": {}}}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"model": {', b'{"model": 3}', b"\xff", b'{"model": {"handler": []}}']
)
def test_a_manifest_that_is_no_json_object_is_refused_with_torchserves_text(content: bytes) -> None:
    with pytest.raises(InvalidModel) as caught:
        model_archive.parse_manifest(content)
    assert caught.value.message == "Failed to parse signature.json."


@pytest.mark.parametrize("content", [{"runtime": "cobol"}, {"runtime": None}, {"runtime": "PYTHON"}])
def test_an_unknown_runtime_is_refused_with_torchserves_text(content: dict[str, object]) -> None:
    with pytest.raises(InvalidModel) as caught:
        model_archive.parse_manifest(manifest_of(content))
    assert caught.value.message == "Runtime is not defined or invalid."


@pytest.mark.parametrize("content", [{}, {"model": None}, {"model": {}}])
def test_a_manifest_without_a_name_reads_as_one(content: dict[str, object]) -> None:
    assert model_archive.parse_manifest(manifest_of(content)).model_name is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_typed_error(content: bytes) -> None:
    try:
        outcome = model_archive.parse_manifest(content).runtime
    except InvalidModel as error:
        outcome = error.message
    assert outcome in ("python", "Failed to parse signature.json.", "Runtime is not defined or invalid.")


@pytest.mark.parametrize(
    "content", [b"", b"this is not an archive\n", b"PK\x03\x04 cut short", b"\x1f\x8bno gzip"]
)
def test_a_mar_that_cannot_be_unzipped_counts_as_an_archive_without_a_manifest(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "broken.mar"
    path.write_bytes(content)
    info = model_archive.inspect(path)
    assert info.manifest == model_archive.Manifest()
    assert "no readable archive" in info.notes[0]
    with pytest.raises(StoreFailed):
        model_archive.extract(path, tmp_path / "out")


def test_half_an_archive_counts_as_one_without_a_manifest(tmp_path: Path) -> None:
    path = good_zip(tmp_path)
    path.write_bytes(path.read_bytes()[:120])
    assert model_archive.inspect(path).manifest.raw is None


def test_any_other_file_that_is_no_archive_is_refused_with_torchserves_text(tmp_path: Path) -> None:
    path = tmp_path / "broken.tar.gz"
    path.write_bytes(b"this is not an archive\n")
    with pytest.raises(StoreFailed) as caught:
        model_archive.inspect(path)
    assert caught.value.message == "Failed to save model: broken.tar.gz"


def test_a_missing_handler_file_is_a_note_and_no_error(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "m.mar", {model_archive.MANIFEST_NAME: manifest_of(MANIFEST)})
    assert model_archive.inspect(path).notes == ("the handler's file h.py is not in the archive",)


@pytest.mark.parametrize("handler", ["base_handler", "h.py:answer", "dir/h.py", "h:answer"])
def test_a_handler_that_is_there_or_comes_with_the_server_needs_no_note(tmp_path: Path, handler: str) -> None:
    content = {"model": {"modelName": "m", "handler": handler}}
    path = write_zip(tmp_path / "m.mar", {model_archive.MANIFEST_NAME: manifest_of(content), "h.py": b""})
    assert model_archive.inspect(path).notes == ()


@pytest.mark.parametrize(
    "name",
    ["../outside.txt", "/etc/outside.txt", "a/../../outside.txt", "..\\outside.txt", "C:\\outside.txt"],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_path_out_of_the_folder_is_refused_before_anything_is_written(
    tmp_path: Path, name: str, kind: str
) -> None:
    if kind == "zip":
        path = write_zip(tmp_path / "m.mar", {"h.py": b"", name: b"out"})
    else:
        path = write_tar(tmp_path / "m.tar.gz", {f"m/{name}" if name.startswith(".") else name: b"out"})
    for step in (
        lambda: model_archive.inspect(path),
        lambda: model_archive.extract(path, tmp_path / "deep" / "er" / "out"),
    ):
        with pytest.raises(InvalidModel, match="points outside of the model's folder"):
            step()
    assert not list(tmp_path.rglob("outside.txt"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFBLK, stat.S_IFSOCK])
def test_a_zip_with_a_link_or_a_device_is_refused(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "m.mar"
    with zipfile.ZipFile(path, "w") as file:
        info = zipfile.ZipInfo("h.py")
        info.external_attr = (kind | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(InvalidModel, match="a link or a device"):
        model_archive.inspect(path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_a_tar_with_a_link_or_a_device_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "m.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        info = tarfile.TarInfo("m/h.py")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(InvalidModel, match="a link or a device"):
        model_archive.extract(path, tmp_path / "out")


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    path = good_zip(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match="is encrypted"):
        model_archive.inspect(path)


def test_ten_gigabytes_of_zeros_in_a_zip_are_refused_without_unpacking(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "m.mar", {"h.py": b"", "bomb": b""})
    content = bytearray(path.read_bytes())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    content[second + 24 : second + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match="would unpack to more than"):
        model_archive.extract(path, tmp_path / "out")
    assert not (tmp_path / "out" / "h.py").exists()


def test_ten_gigabytes_of_zeros_in_a_tar_are_refused_by_their_header(tmp_path: Path) -> None:
    info = tarfile.TarInfo("m/bomb")
    info.size = 10 << 30
    path = tmp_path / "m.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf() + b"\0" * 4096))
    with pytest.raises(InvalidModel, match="would unpack to more than"):
        model_archive.extract(path, tmp_path / "out")
    assert not (tmp_path / "out" / "bomb").exists()


def test_a_tar_whose_headers_are_the_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_entries, "RATIO_FLOOR_BYTES", 1 << 20)
    monkeypatch.setattr(archive_entries, "ENTRY_LIMIT", 10)
    longest = tarfile.TarInfo("m/x")
    longest.type, longest.size = tarfile.GNUTYPE_LONGLINK, tar_headers.EXTENSION_LIMIT_BYTES
    blocks = [longest.tobuf(), b"x" * longest.size] * 4 + [tarfile.TarInfo("m/x").tobuf()]
    path = tmp_path / "m.tar.gz"
    path.write_bytes(gzip.compress(b"".join(blocks * 8)))
    with pytest.raises(InvalidModel, match="larger than what its entries may unpack to"):
        model_archive.inspect(path)


def test_more_entries_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_entries, "ENTRY_LIMIT", 3)
    path = write_zip(tmp_path / "m.mar", {f"f{i}": b"" for i in range(4)})
    with pytest.raises(InvalidModel, match="more than 3 entries"):
        model_archive.inspect(path)


@given(cut=st.integers(0, 400), flip=st.integers(0, 255))
def test_a_damaged_archive_is_read_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = good_zip(folder)
    content = bytearray(path.read_bytes())
    content[cut % len(content)] ^= flip
    path.write_bytes(content)
    error = None
    try:
        model_archive.inspect(path)
        model_archive.extract(path, folder / "out")
    except RelayError as refusal:
        error = refusal
    # A byte in the name or date of an entry may well change without a trace; h.py's content may not.
    unpacked = folder / "out" / "h.py"
    assert error is not None or not unpacked.exists() or unpacked.read_bytes() == b"x = 1\n"


def test_extracting_a_zip_writes_its_files(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "m.mar", {"h.py": b"x = 1\n", "sub/deeper/w.bin": b"\0\1", "empty/": b""})
    model_archive.extract(path, tmp_path / "out")
    assert (tmp_path / "out" / "h.py").read_bytes() == b"x = 1\n"
    assert (tmp_path / "out" / "sub" / "deeper" / "w.bin").read_bytes() == b"\0\1"
    assert (tmp_path / "out" / "empty").is_dir()


@pytest.mark.parametrize("top", ["m", "."])
def test_a_tar_loses_its_first_path_component(tmp_path: Path, top: str) -> None:
    path = write_tar(
        tmp_path / "m.tar.gz",
        {f"{top}/{model_archive.MANIFEST_NAME}": manifest_of(MANIFEST), f"{top}/h.py": b"y"},
    )
    assert model_archive.inspect(path).manifest.model_name == "m"
    model_archive.extract(path, tmp_path / "out")
    assert (tmp_path / "out" / "h.py").read_bytes() == b"y"


def make_handler(tmp_path: Path, name: str = "h.py") -> Path:
    file = tmp_path / name
    file.write_text("def handle(data, context):\n    return data\n")
    return file


def test_a_created_archive_can_be_inspected_and_holds_every_file(tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    (extra / "sub").mkdir(parents=True)
    (extra / "sub" / "labels.json").write_text("{}")
    (tmp_path / "w.pt").write_bytes(b"weights")
    target = tmp_path / "out" / "m.mar"
    model_archive.create(
        target,
        model_name="m",
        version="1.0",
        handler=str(make_handler(tmp_path)),
        serialized_file=tmp_path / "w.pt",
        extra_files=[extra],
    )
    info = model_archive.inspect(target)
    assert info.notes == ()
    assert info.manifest.raw is not None
    assert info.manifest.raw["model"] == {
        "modelName": "m",
        "handler": "h.py",
        "modelVersion": "1.0",
        "serializedFile": "w.pt",
    }
    assert list(info.manifest.raw) == ["createdOn", "runtime", "model", "archiverVersion"]
    with zipfile.ZipFile(target) as file:
        assert file.namelist() == [model_archive.MANIFEST_NAME, "h.py", "sub/labels.json", "w.pt"]


@pytest.mark.parametrize(
    ("handler", "entry", "has_file"),
    [("h.py", "h.py", True), ("h:answer", "h:answer", True), ("base_handler", "base_handler", False)],
)
def test_the_manifest_names_the_handler_as_the_worker_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handler: str, entry: str, has_file: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    make_handler(tmp_path)
    model_archive.create(Path("m.mar"), model_name="m", version="1", handler=handler)
    assert model_archive.inspect(Path("m.mar")).manifest.handler == entry
    with zipfile.ZipFile("m.mar") as file:
        assert ("h.py" in file.namelist()) is has_file


def test_an_existing_archive_is_replaced_only_when_forced(tmp_path: Path) -> None:
    handler = str(make_handler(tmp_path))
    target = tmp_path / "m.mar"
    target.write_text("precious")
    with pytest.raises(InvalidModel, match="exists"):
        model_archive.create(target, model_name="m", version="1", handler=handler)
    assert target.read_text() == "precious"
    model_archive.create(target, model_name="m", version="1", handler=handler, force=True)
    assert model_archive.inspect(target).manifest.model_name == "m"


def test_an_archive_of_missing_or_clashing_files_is_refused(tmp_path: Path) -> None:
    handler = str(make_handler(tmp_path))
    (tmp_path / "other").mkdir()
    for fault, extra in (("no file", tmp_path / "nowhere"), ("Both", make_handler(tmp_path / "other"))):
        with pytest.raises(InvalidModel, match=fault):
            model_archive.create(
                tmp_path / "m.mar", model_name="m", version="1", handler=handler, extra_files=[extra]
            )
    assert not list(tmp_path.glob("m.mar*"))


@pytest.mark.parametrize(
    ("name", "handler", "runtime", "fault"),
    [
        ("", "h.py", "python", "Model name"),
        ("../m", "h.py", "python", "Model name"),
        ("m", "nowhere.py", "python", "no handler file"),
        ("m", "h.py", "cobol", "Runtime"),
    ],
)
def test_an_archive_that_no_server_would_take_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, handler: str, runtime: str, fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_handler(tmp_path)
    with pytest.raises(InvalidModel, match=fault):
        model_archive.create(Path("m.mar"), model_name=name, version="1", handler=handler, runtime=runtime)


def test_a_folder_packs_to_the_same_archive_however_often_and_unpacks_to_itself(tmp_path: Path) -> None:
    source = tmp_path / "given" / "only"
    model_archive.extract(good_zip(tmp_path), source)
    model_archive.pack_folder(tmp_path / "given", tmp_path / "one.mar")
    model_archive.pack_folder(source, tmp_path / "two.mar")
    assert model_archive.sha256_of(tmp_path / "one.mar") == model_archive.sha256_of(tmp_path / "two.mar")
    assert model_archive.inspect(tmp_path / "one.mar").manifest.model_name == "m"
    shutil.rmtree(source)
    model_archive.extract(tmp_path / "one.mar", source)
    assert (source / "h.py").read_bytes() == b"x = 1\n"


def folder_like_the_fields(tmp_path: Path) -> Path:
    """A model whose files and folders are links, as Hugging Face's cache and Kubernetes make them."""
    blobs, libraries, model = (tmp_path / name for name in ("blobs", "libraries", "given"))
    for folder in (blobs, libraries / "deep", model / "MAR-INF", model / "..2026_01", model / "empty"):
        folder.mkdir(parents=True)
    (model / model_archive.MANIFEST_NAME).write_bytes(manifest_of(MANIFEST))
    (blobs / "ab").write_text("x = 1")
    (model / "h.py").symlink_to("../blobs/ab")
    (libraries / "deep" / "inner.py").write_text("VALUE = 41")
    (model / "lib").symlink_to(libraries)
    (model / "..2026_01" / "mounted.txt").write_text("mounted")
    (model / "..data").symlink_to("..2026_01")
    (model / "mounted.txt").symlink_to("..data/mounted.txt")
    (model / "tool").write_text("#!/bin/sh")
    (model / "tool").chmod(0o755)
    (model / "loop").symlink_to(model)
    (model / "gone").symlink_to(tmp_path / "gone")
    return model


def test_a_folder_is_packed_with_all_that_its_links_lead_to(tmp_path: Path) -> None:
    folder = folder_like_the_fields(tmp_path)
    model_archive.pack_folder(folder, tmp_path / "m.mar", [tmp_path / "blobs", tmp_path / "libraries"])
    out = tmp_path / "out"
    model_archive.extract(tmp_path / "m.mar", out)
    assert (out / "h.py").read_text() == "x = 1"
    assert (out / "lib" / "deep" / "inner.py").read_text() == "VALUE = 41"
    assert (out / "mounted.txt").read_text() == "mounted"
    assert (out / "..data" / "mounted.txt").read_text() == "mounted"
    assert list((out / "empty").iterdir()) == []
    assert not [path for path in out.rglob("*") if path.is_symlink()]
    assert not (out / "gone").exists()
    assert [path.name for path in out.rglob("*") if path.is_file() and path.stat().st_mode & 0o111] == [
        "tool"
    ]


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz", "no-archive"])
def test_a_program_in_an_archive_can_be_run(tmp_path: Path, archive_format: str) -> None:
    for name, mode in {"h.py": 0o644, "tool": 0o750}.items():
        (tmp_path / name).write_text("#!/bin/sh")
        (tmp_path / name).chmod(mode)
    target = tmp_path / "made"
    model_archive.create(
        target, model_name="m", version="1.0", handler=str(tmp_path / "h.py"),
        extra_files=[tmp_path / "tool"], archive_format=archive_format,
    )  # fmt: skip
    out = target
    if archive_format != "no-archive":
        out = tmp_path / "out"
        model_archive.extract(target, out)
    assert (out / "tool").stat().st_mode & 0o100
    assert not (out / "h.py").stat().st_mode & 0o111


def test_a_folder_without_end_is_refused_before_it_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_entries, "ENTRY_LIMIT", 2)
    (tmp_path / "given").mkdir()
    for number in range(3):
        (tmp_path / "given" / str(number)).write_text("")
    with pytest.raises(InvalidModel, match="more than 2 files and folders"):
        model_archive.pack_folder(tmp_path / "given", tmp_path / "m.mar")
    assert not (tmp_path / "m.mar").exists()


def test_a_folder_tells_what_an_archive_of_it_would_and_one_in_it_alone_stands_for_it(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    (inner / "MAR-INF").mkdir(parents=True)
    content = {**MANIFEST, "model": {**MANIFEST["model"], "configFile": "c.yaml"}}  # type: ignore[dict-item]
    (inner / model_archive.MANIFEST_NAME).write_bytes(manifest_of(content))
    (inner / "c.yaml").write_bytes(b"batchSize: 3")
    root, info = model_archive.inspect_folder(tmp_path / "outer")
    assert root == inner
    assert (info.manifest.model_name, info.config) == ("m", b"batchSize: 3")
    assert model_archive.inspect_folder(tmp_path)[1].manifest == model_archive.Manifest()


@pytest.mark.parametrize("name", ["/etc/hostname", "../secret"])
def test_a_folders_manifest_names_no_config_outside_of_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("batchSize: 3")
    (tmp_path / "m" / "MAR-INF").mkdir(parents=True)
    (tmp_path / "m" / "h.py").write_text("")
    (tmp_path / "m" / model_archive.MANIFEST_NAME).write_bytes(manifest_of({"model": {"configFile": name}}))
    with pytest.raises(InvalidModel):
        model_archive.inspect_folder(tmp_path / "m")


def test_what_an_archive_unpacks_to_is_known_before(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "m.mar", {"a": b"x" * 1000, "b": b"y"})
    assert model_archive.unpacked_bytes(path) == 1001
    other = write_tar(tmp_path / "m.tar.gz", {"top/a": b"x" * 1000})
    assert model_archive.unpacked_bytes(other) == other.stat().st_size


@pytest.mark.parametrize("name", ["n" * 256, "/".join("a" * 101), "d/" * 40 + "\u00e4" * 130, "x/" * 10_000])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_path_that_no_disk_can_have_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    if kind == "zip":
        path = write_zip(tmp_path / "m.mar", {name: b""})
    else:
        path = write_tar(tmp_path / "m.tar.gz", {f"m/{name}": b""})
    with pytest.raises(InvalidModel, match="is too long") as caught:
        model_archive.inspect(path)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("names", [["a", "a/b"], ["a/b", "a"], ["a/b/c/d", "a/b"], ["a/", "a"]])
def test_what_is_a_file_and_a_folder_is_refused_before_anything_is_written(
    tmp_path: Path, names: list[str]
) -> None:
    path = write_zip(tmp_path / "m.mar", dict.fromkeys(names, b""))
    with pytest.raises(InvalidModel, match="is both a file and a folder"):
        model_archive.inspect(path)


@pytest.mark.parametrize(
    "text", ["\\ud800", "x" * 5000, "\\u0000" * 5000], ids=["no text", "too long", "too many zeros"]
)
@pytest.mark.parametrize("key", ["modelName", "modelVersion", "handler", "requirementsFile", "configFile"])
def test_a_manifest_of_what_can_be_neither_stored_nor_sent_is_refused(key: str, text: str) -> None:
    with pytest.raises(InvalidModel):
        model_archive.parse_manifest(f'{{"model": {{"{key}": "{text}"}}}}'.encode())


def test_a_manifest_of_lists_in_lists_without_end_is_refused() -> None:
    with pytest.raises(InvalidModel):
        model_archive.parse_manifest(b'{"own": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def overlapping(path: Path) -> Path:
    """Write a zip whose 100 entries are all the same 1 MB of zeros, each read as a file of its own."""
    write_zip(path, {})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("0" * 8, b"\0" * (1 << 20))
        first = file.infolist()[0]
        for number in range(1, 300):
            info = zipfile.ZipInfo(f"{number:08}")
            for field in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(info, field, getattr(first, field))
            file.filelist.append(info)
            file._didModify = True  # type: ignore[attr-defined]  # so that the directory is written
    return path


def test_entries_that_overlap_unpack_to_no_more_than_the_directory_says(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="would unpack to more than"):
        model_archive.inspect(overlapping(tmp_path / "m.mar"))


def test_an_entry_that_has_more_than_it_says_is_cut_off_there(tmp_path: Path) -> None:
    path = tmp_path / "m.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb", b"\0" * (8 << 20))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(StoreFailed, match="Bad CRC"):
        model_archive.extract(path, tmp_path / "out")
    assert (tmp_path / "out" / "bomb").stat().st_size <= 1000


@pytest.mark.parametrize("offset", [0xFFFFFFFF, 0x7FFFFFFF])
def test_an_entry_that_lies_nowhere_is_a_typed_error(tmp_path: Path, offset: int) -> None:
    path = good_zip(tmp_path)
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 42
    content[at : at + 4] = offset.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(StoreFailed):
        model_archive.extract(path, tmp_path / "out")
