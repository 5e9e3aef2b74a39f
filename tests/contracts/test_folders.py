"""Every folder says its role in one line, where a reader looks first."""

import ast
from pathlib import Path

from tests.contracts.source import PACKAGES, ROOT, modules, own_modules, plant

FOLDERS = (*PACKAGES, "benchmarks")
ROLE_LIMIT_CHARS = 120
#: The folder whose names applications import, so that they stand in its `__init__`.
PUBLIC = "client"


def folders_without_a_role(root: Path) -> list[str]:
    """Return the folders with modules whose `__init__` isn't one line that says what they are for.

    That of `client` has beside it what applications import.
    """
    found = []
    for folder in sorted({module.path.parent for module in own_modules(root, *FOLDERS)}):
        name = folder.relative_to(root).as_posix()
        init = folder / "__init__.py"
        if not init.exists():
            found.append(f"{name} has no __init__.py")
            continue
        body = ast.parse(init.read_text()).body
        role = ast.get_docstring(ast.Module(body, []))
        if (
            not role
            or (len(body) != 1 and name != PUBLIC)
            or "\n" in role
            or len(role) > ROLE_LIMIT_CHARS
            or not role.endswith(".")
        ):
            found.append(f"{name}/__init__.py is not one line that says its role")
    return found


def inits_with_code(root: Path) -> list[str]:
    """Return the `__init__` files that do more than say what they are."""
    return [
        module.name
        for module in modules(root)
        if module.path.name == "__init__.py" and len(module.tree.body) > 1
    ]


def test_every_folder_says_its_role() -> None:
    assert folders_without_a_role(ROOT) == []


def test_only_what_others_import_is_in_an_init() -> None:
    assert inits_with_code(ROOT) == [f"{PUBLIC}/__init__.py", "worker/compat/ts/__init__.py"]


def test_a_folder_without_a_role_is_found(tmp_path: Path) -> None:
    files = {
        "broker/__init__.py": '"""Owns registrations, queues and leases."""\n',
        "broker/core/__init__.py": "",
        "broker/jobs/__init__.py": '"""Jobs."""\nLIMIT = 3\n',
        "broker/fleet/__init__.py": '"""Nodes.\n\nAnd more.\n"""\n',
        "broker/models/catalog.py": "",
    }
    assert folders_without_a_role(plant(tmp_path, files)) == [
        "broker/core/__init__.py is not one line that says its role",
        "broker/fleet/__init__.py is not one line that says its role",
        "broker/jobs/__init__.py is not one line that says its role",
        "broker/models has no __init__.py",
    ]
    assert inits_with_code(tmp_path) == ["broker/jobs/__init__.py"]
