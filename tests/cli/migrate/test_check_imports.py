"""What handlers import, and isn't there."""

import sys
from pathlib import Path

import pytest

from tests.cli.migrate.archives import HANDLER, judged, worse
from torchrelay.cli.migrate.surroundings import Surroundings
from torchrelay.shared.torchserve.config_keys import ConfigValues

#: Nothing but torch is installed.
BARE = Surroundings(has_package=lambda module: module in ("torch", "yaml", "numpy"))


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("import cv2", "fails"),
        ("def load():\n    import cv2", "differs"),
        ("try:\n    import cv2\nexcept ImportError:\n    pass", ""),
        ("import json, torch, own, ts", ""),
        ("from ts.torch_handler.base_handler import BaseHandler", ""),
        ("from ts.torch_handler.image_classifier import ImageClassifier", "fails"),
        ("from ts.model_service_worker import TorchModelServiceWorker", "fails"),
        ("from ts.context import Nothing", "fails"),
        ("from ts.torch_handler import base_handler", ""),
        ("import imp", "fails" if sys.version_info >= (3, 12) else "differs"),
    ],
)
def test_an_import_of_what_isnt_there_is_found(tmp_path: Path, text: str, level: str) -> None:
    found = worse(judged(tmp_path, {"h.py": f"{text}\n{HANDLER}", "own.py": ""}, BARE))
    assert {one[0] for one in found} == ({level} if level else set())
    assert all(one[1] == "h.py" for one in found)


def test_a_module_that_python_has_lost_says_since_when(tmp_path: Path) -> None:
    found = judged(tmp_path, {"h.py": f"import imp\n{HANDLER}"}, BARE)
    assert "Python 3.12" in next(one.what for one in found if one.level != "same")


def test_what_the_archive_requires_is_not_missing(tmp_path: Path) -> None:
    files = {"h.py": f"import cv2\n{HANDLER}", "r.txt": "opencv-python"}
    found = judged(tmp_path, files, BARE, requirementsFile="r.txt")
    assert worse(found) == []
    assert any("install_py_dep_per_model" in one.what for one in found)
    installs = Surroundings(config=ConfigValues(install_py_dep_per_model=True), has_package=BARE.has_package)
    found = judged(tmp_path, files, installs, requirementsFile="r.txt")
    assert not any("install_py_dep_per_model" in one.what for one in found)


def test_variables_of_requirements_that_pip_wont_see_are_named(tmp_path: Path) -> None:
    files = {"h.py": HANDLER, "r.txt": "--index-url https://u:${TOKEN}@host/simple\nx"}
    [found] = [one for one in judged(tmp_path, files, requirementsFile="r.txt") if one.level != "same"]
    assert (found.level, found.advice.split()[0]) == ("differs", "install_env_vars=TOKEN")


def test_a_default_handler_needs_its_packages(tmp_path: Path) -> None:
    found = judged(tmp_path, {}, BARE, handler="image_classifier")
    assert {one.what.split()[2].rstrip(",") for one in found if one.level == "fails"} == {
        "torchvision",
        "PIL",
    }
    assert worse(judged(tmp_path, {}, handler="image_classifier")) == []
