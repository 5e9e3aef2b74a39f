"""The source tree as the contracts see it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = "torchrelay."
PACKAGES = ("broker", "worker", "gateway", "shared", "cli")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def sources(*packages: str) -> list[Path]:
    """Our modules, without what archives import (it has TorchServe's own layout and rules)."""
    found = [path for package in packages or PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(path for path in found if "compat" not in path.parts)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth; ours by their folder, others by their full name."""
    return (module.removeprefix(OURS) for module in full_imports(path))


def full_imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth, by its full name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
