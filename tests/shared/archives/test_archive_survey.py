"""What an archive's files say is the same whether it is packed or a folder."""

import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

import pytest

from torchrelay.shared import errors
from torchrelay.shared.archives import archive_survey, model_archive
from torchrelay.shared.archives.reader import ArchiveReader


def write(path: Path, files: Mapping[str, str | bytes], **model: str) -> Path:
    manifest = {"runtime": "python", "model": {"modelName": "m", "handler": "h.py", **model}}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(model_archive.MANIFEST_NAME, json.dumps(manifest))
        for name, content in files.items():
            file.writestr(name, content)
    return path


def test_an_archive_and_its_folder_say_the_same(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "h.py": "import cv2",
        "own/x.py": "",
        "r.txt": "numpy",
        "plugin.jar": "",
        "w.pt": b"\x80\x02.",
    }
    packed = write(
        tmp_path / "m.mar", files, requirementsFile="r.txt", serializedFile="w.pt", modelFile="own/x.py"
    )
    folder = tmp_path / "m"
    model_archive.extract(packed, folder)
    found = archive_survey.survey(packed)
    assert found.own_modules == ("h", "own")
    assert [(one.name, [i.module for i in one.facts.imports]) for one in found.sources] == [
        ("h.py", ["cv2"]), ("own/x.py", []),
    ]  # fmt: skip
    assert (found.jars, found.requirements) == (("plugin.jar",), "numpy")
    unpacked = archive_survey.survey(folder)
    assert (unpacked.sources, unpacked.own_modules, unpacked.requirements) == (
        found.sources, found.own_modules, found.requirements,
    )  # fmt: skip


def test_a_folder_without_its_handler_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    model_archive.extract(write(tmp_path / "m.mar", {"g.py": ""}), folder)
    assert archive_survey.survey(folder).info.notes == ("the handler's file h.py is not in the archive",)


def test_links_in_a_circle_and_pipes_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    model_archive.extract(write(tmp_path / "m.mar", {"h.py": ""}), folder)
    (folder / "again").symlink_to(folder)
    os.mkfifo(folder / "pipe.py")
    assert archive_survey.survey(folder).own_modules == ("h",)


def test_of_very_many_sources_the_first_ones_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_survey, "SOURCES_LIMIT", 2)
    found = archive_survey.survey(write(tmp_path / "m.mar", {f"{n}.py": "" for n in range(4)}))
    assert (len(found.sources), found.has_more_sources, len(found.own_modules)) == (2, True, 4)


def test_a_reader_surveys_in_a_process_of_its_own(tmp_path: Path) -> None:
    with closing(ArchiveReader()) as reader:
        assert reader.survey(write(tmp_path / "m.mar", {"h.py": "import cv2"})).own_modules == ("h",)
        # Python's parser itself may not survive this one; whoever asks must.
        deep = write(tmp_path / "deep.mar", {"h.py": "x = " + "-" * 1_500_000 + "1"})
        with suppress(errors.InvalidModel, errors.StoreFailed):
            assert reader.survey(deep).sources[0].facts.fault
        assert reader.survey(tmp_path / "m.mar").own_modules == ("h",)
