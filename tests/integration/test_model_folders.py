"""Models that are folders, and where archives lie: what workers see, and how often a model is on the disk."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.archives import make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually
from torchrelay.shared.archives.model_archive import MANIFEST_NAME

pytestmark = pytest.mark.integration

#: Tells what it finds in its folder, and writes there.
HANDLER = """
import os, subprocess
from lib import inner

class Handler:
    def initialize(self, context):
        self.folder = context.system_properties["model_dir"]
        with open(os.path.join(self.folder, "version.txt")) as file:
            self.version = file.read()

    def handle(self, data, context):
        with open(os.path.join(self.folder, "feedback.txt"), "a") as file:
            file.write("x")
        tool = subprocess.run([os.path.join(self.folder, "tool")], stdout=subprocess.PIPE, text=True)
        return [{
            "version": self.version,
            "tool": tool.stdout,
            "lib": inner.VALUE,
            "has_empty": os.path.isdir(os.path.join(self.folder, "empty")),
        }] * len(data)
"""


def make_folder(store: Path) -> Path:
    """Make a model that is a folder with links, a program, and a folder without content."""
    libraries, folder = store.parent / "libraries", store / "fold"
    for place in (libraries, folder / "MAR-INF", folder / "empty"):
        place.mkdir(parents=True)
    manifest = {"runtime": "python", "model": {"modelName": "fold", "handler": "h.py", "modelVersion": "1.0"}}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    (store.parent / "blob").write_text(HANDLER)
    (folder / "h.py").symlink_to(store.parent / "blob")
    (libraries / "inner.py").write_text("VALUE = 41")
    (folder / "lib").symlink_to(libraries)
    (folder / "version.txt").write_text("one")
    (folder / "tool").write_text("#!/bin/sh\necho ran\n")
    (folder / "tool").chmod(0o755)
    return folder


def ask(parts: Fleet) -> Any:  # Any: JSON
    answer = parts.predict("fold")
    assert answer.status_code == 200, answer.text
    return answer.json()


WHOLE = {"version": "one", "tool": "ran\n", "lib": 41, "has_empty": True}


def test_a_folder_is_used_where_it_is_and_new_workers_see_its_edits(tmp_path: Path) -> None:
    with fleet(tmp_path, make_store(tmp_path / "models")) as parts:
        folder = make_folder(tmp_path / "models")
        parts.serve("--enable-model-api")
        assert parts.register("fold", initial_workers=1).status_code == 200
        assert ask(parts) == WHOLE
        assert (folder / "feedback.txt").read_text() == "x"
        (folder / "version.txt").write_text("two")
        for workers in (0, 1):
            assert parts.scale("fold", min_worker=workers, max_worker=workers, synchronous=True).is_success
        assert ask(parts) == {**WHOLE, "version": "two"}
        assert not list((tmp_path / "cache" / "models").iterdir())
        assert not list((tmp_path / "state" / "archives").iterdir())


def test_a_folder_that_is_sent_to_a_node_arrives_whole_and_as_it_was(tmp_path: Path) -> None:
    with fleet(tmp_path, make_store(tmp_path / "models")) as parts:
        folder = make_folder(tmp_path / "models")
        parts.broker("--link-targets", str(tmp_path / "libraries"), "--link-targets", str(tmp_path / "blob"))
        parts.wait_until_up(parts.gateway())
        parts.node("one")
        eventually(lambda: len(parts.status()["nodes"]) == 1)
        assert parts.register("fold", initial_workers=1).status_code == 200
        (folder / "version.txt").write_text("two")
        assert ask(parts) == WHOLE
        assert not (folder / "feedback.txt").exists()
        assert "model.folder_packed" in parts.output()


def test_a_folder_whose_links_leave_it_is_sent_to_no_node(tmp_path: Path) -> None:
    with fleet(tmp_path, make_store(tmp_path / "models")) as parts:
        make_folder(tmp_path / "models")
        parts.broker()
        parts.wait_until_up(parts.gateway())
        refused = parts.register("fold", initial_workers=0)
        assert refused.status_code == 400
        assert f"'lib' leads to '{tmp_path}/libraries'" in refused.json()["message"]
        assert not list((tmp_path / "state" / "archives").iterdir())


@pytest.mark.parametrize(("arguments", "in_state"), [((), 1), (("--ncs",), 0)])
def test_a_host_has_an_archive_and_no_more_than_one_copy_beside_what_is_unpacked(
    tmp_path: Path, arguments: tuple[str, ...], in_state: int
) -> None:
    with fleet(tmp_path, make_store(tmp_path / "models", "echo")) as parts:
        parts.serve("--models", "echo.mar", *arguments)
        eventually(lambda: parts.predict("echo").status_code == 200)
        assert not list((tmp_path / "cache").rglob("*.mar"))
        assert len(list((tmp_path / "cache" / "models").iterdir())) == 1
        assert len(list(tmp_path.glob("state/archives/*.archive"))) == in_state
