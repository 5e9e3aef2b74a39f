"""A class's name has one meaning in the packages, as a file's has."""

import ast
from pathlib import Path

from tests.contracts.source import PACKAGES, ROOT, own_modules, plant


def names_that_occur_twice(root: Path) -> dict[str, set[str]]:
    """Map each public class name with several meanings to the modules that define one."""
    places: dict[str, set[str]] = {}
    for module in own_modules(root, *PACKAGES, "benchmarks"):
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, set()).add(module.name)
    return {name: modules for name, modules in places.items() if len(modules) > 1}


def test_no_class_name_has_two_meanings() -> None:
    assert names_that_occur_twice(ROOT) == {}


def test_a_class_name_with_two_meanings_is_found(tmp_path: Path) -> None:
    files = {
        "broker/a.py": "class Worker: ...\nclass _Own: ...",
        "worker/b.py": "class Worker: ...\nclass _Own: ...\ndef f():\n    class Job: ...",
        "cli/c.py": "class Job: ...",
        "worker/compat/ts/d.py": "class Worker: ...",
    }
    assert names_that_occur_twice(plant(tmp_path, files)) == {"Worker": {"broker/a.py", "worker/b.py"}}
