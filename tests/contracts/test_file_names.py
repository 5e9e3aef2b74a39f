"""A file's name says one thing: it is there once, and it is nobody else's."""

import sys
from pathlib import Path

from tests.contracts.source import PACKAGES, ROOT, own_modules, plant

#: Every package may have one of these.
COMMON = frozenset({"__init__", "__main__", "main"})
FOLDERS = (*PACKAGES, "benchmarks")


def names_that_occur_twice(root: Path) -> list[str]:
    """Return the file names with more than one meaning."""
    places: dict[str, list[str]] = {}
    for module in own_modules(root, *FOLDERS):
        places.setdefault(module.path.stem, []).append(module.name)
    return [" and ".join(names) for stem, names in places.items() if len(names) > 1 and stem not in COMMON]


def names_of_the_standard_library(root: Path) -> list[str]:
    """Return the files and folders that are called as a module of the standard library.

    Folders count where Python could take them for it: scripts see what lies beside them.
    """
    return [
        module.name
        for module in own_modules(root, *FOLDERS)
        if module.path.stem not in COMMON and module.path.stem in sys.stdlib_module_names
    ]


def test_no_file_name_has_two_meanings(tmp_path: Path) -> None:
    assert names_that_occur_twice(ROOT) == []
    names = ("broker/core/parts.py", "gateway/http/parts.py", "cli/main.py", "gateway/main.py",
             "broker/__init__.py", "cli/__init__.py", "worker/compat/ts/parts.py")  # fmt: skip
    files = dict.fromkeys(names, "")
    assert names_that_occur_twice(plant(tmp_path, files)) == [
        "broker/core/parts.py and gateway/http/parts.py"
    ]


def test_no_module_shadows_the_standard_library(tmp_path: Path) -> None:
    assert names_of_the_standard_library(ROOT) == []
    files = {"broker/queue.py": "", "shared/logging.py": "", "broker/queues.py": ""}
    assert names_of_the_standard_library(plant(tmp_path, files)) == ["broker/queue.py", "shared/logging.py"]
