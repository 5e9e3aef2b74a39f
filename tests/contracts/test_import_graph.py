"""The import graph: three floors, no arrow up, no circle; also for types, and for what archives import."""

from pathlib import Path

import pytest

from tests.contracts.source import PACKAGES, PREFIX, ROOT, graph, imports, modules, plant

#: The folders of a floor import those of floors below it and themselves, but not one another.
FLOORS = (("shared",), ("broker", "worker", "gateway", "client"), ("cli", "benchmarks"))
FLOOR_OF = {folder: number for number, floor in enumerate(FLOORS) for folder in floor}
EVERYTHING = tuple(FLOOR_OF)
#: The top floor is where parts meet: its folders may import each other.
TOP = len(FLOORS) - 1


def circles(root: Path) -> list[str]:
    """Return the groups of modules that import each other, directly or by a detour."""
    edges = graph(root, *EVERYTHING)
    reachable = {start: _reachable(start, edges) for start in edges}
    groups = {
        frozenset(other for other in reachable[start] if start in reachable[other])
        for start in edges
        if start in reachable[start]
    }
    return sorted(" <-> ".join(sorted(group)) for group in groups)


def _reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for target in edges[waiting.pop()] - found:
            found.add(target)
            waiting.append(target)
    return found


def arrows_up(root: Path) -> list[str]:
    """Return the imports that lead to a floor above, or to another folder of the same floor."""
    folder_of = {module.dotted: module.package for module in modules(root, *EVERYTHING)}
    return sorted(
        f"{module} -> {target}"
        for module, targets in graph(root, *EVERYTHING).items()
        for target in targets
        if not _is_allowed(folder_of[module], folder_of[target])
    )


def _is_allowed(folder: str, target: str) -> bool:
    if folder == target or FLOOR_OF[target] < FLOOR_OF[folder]:
        return True
    return FLOOR_OF[folder] == FLOOR_OF[target] == TOP


def imports_by_folder(root: Path) -> list[str]:
    """Return imports of our packages without their prefix.

    `import shared` works in a checkout alone, or finds another project's package of that name.
    """
    everywhere = modules(root, *EVERYTHING, "tests", "docs", "examples")
    return [
        f"{module.name}: {full}"
        for module in everywhere
        for full in sorted(imports(module))
        if full.partition(".")[0] in PACKAGES
    ]


def test_no_module_imports_itself_by_a_detour() -> None:
    assert circles(ROOT) == []


@pytest.mark.parametrize(
    "text",
    [
        "from torchrelay.broker.b import B",
        "from torchrelay.broker import b",
        "import torchrelay.broker.b",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torchrelay.broker.b import B",
        "def late():\n    from torchrelay.broker.b import B",
        "from . import b",
        "from .b import B",
    ],
)
def test_a_circle_is_found_however_it_is_imported(tmp_path: Path, text: str) -> None:
    files = {"broker/a.py": text, "broker/b.py": "import torchrelay.broker.c", "broker/c.py": ""}
    assert circles(plant(tmp_path / "without", files)) == []
    files["broker/c.py"] = "from torchrelay.broker import a"
    assert circles(plant(tmp_path / "with", files)) == ["broker.a <-> broker.b <-> broker.c"]


def test_a_circle_through_what_archives_import_is_found(tmp_path: Path) -> None:
    files = {
        "worker/model/loading.py": "from ts.context import Context",
        "worker/compat/ts/context.py": "import torchrelay.worker.model.loading",
    }
    assert circles(plant(tmp_path, files)) == ["ts.context <-> worker.model.loading"]


def test_no_import_leads_up() -> None:
    assert arrows_up(ROOT) == []


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("shared/ids.py", "broker.server"),
        ("gateway/link.py", "broker.server"),
        ("broker/core/states.py", "cli.main"),
        ("worker/compat/ts/model_server.py", "cli.main"),
        ("worker/node/node.py", "benchmarks.run"),
    ],
)
def test_an_import_that_leads_up_is_found(tmp_path: Path, name: str, target: str) -> None:
    files = {name: f"import {PREFIX}{target}", f"{target.replace('.', '/')}.py": ""}
    dotted = name.removeprefix("worker/compat/").removesuffix(".py").replace("/", ".")
    assert arrows_up(plant(tmp_path, files)) == [f"{dotted} -> {target}"]


def test_imports_that_lead_down_are_none_of_these(tmp_path: Path) -> None:
    files = {
        "cli/main.py": "import torchrelay.broker.server\nimport torchrelay.shared.ids",
        "broker/server.py": "import torchrelay.shared.ids",
        "shared/ids.py": "",
    }
    assert arrows_up(plant(tmp_path, files)) == []


def test_our_packages_are_imported_under_their_installed_name(tmp_path: Path) -> None:
    assert imports_by_folder(ROOT) == []
    assert imports_by_folder(plant(tmp_path, {"tests/test_x.py": "from shared import ids"}))
