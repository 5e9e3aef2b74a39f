"""What handlers may import as `ts`, read from our own sources without importing them: they need torch."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from torchrelay import worker
from torchrelay.shared.archives import python_facts

_FOLDER = Path(str(worker.__file__)).parent / "compat" / "ts"


@cache
def names_of(module: str) -> frozenset[str] | None:
    """Return what a module `ts...` has, submodules included; None where there is no such module."""
    place, file = _FOLDER.joinpath(*module.split(".")[1:]), _file(module)
    if file is None:
        return None
    inner = {path.stem for path in place.glob("*") if path.suffix in ("", ".py")} if place.is_dir() else set()
    return frozenset({*inner, *_names(_tree(file).body)})


@cache
def packages_of(module: str) -> frozenset[str]:
    """Return the packages that a module `ts...` needs to be loaded, with all of ours that it imports."""
    seen: set[str] = set()
    waiting, packages = [module], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.partition(".")[0] != "ts":
            packages.add(name.partition(".")[0])
        elif (file := _file(name)) is not None:
            facts = python_facts.read(file.read_bytes())
            waiting += [one.module for one in facts.imports if one.time == "loading"]
    return frozenset(packages)


@cache
def context_attributes() -> frozenset[str]:
    """Return what a handler may ask of its context."""
    context = _class(_FOLDER / "context.py", "Context")
    metrics = _attributes(_class(_FOLDER / "metrics" / "metrics_cache.py", "MetricsCache"))
    return frozenset(
        {
            *_attributes(context),
            *(f"metrics.{name}" for name in metrics),
            *(f"system_properties.{key}" for key in _properties(context)),
        }
    )


def _file(module: str) -> Path | None:
    place = _FOLDER.joinpath(*module.split(".")[1:])
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return file if file.is_file() else None


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _names(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Import() | ast.ImportFrom():
                yield from ((name.asname or name.name).partition(".")[0] for name in node.names)
            case ast.Assign():
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.If() | ast.Try():
                yield from _names([*node.body, *node.orelse])


def _class(file: Path, name: str) -> ast.ClassDef:
    return next(node for node in _tree(file).body if isinstance(node, ast.ClassDef) and node.name == name)


def _attributes(cls: ast.ClassDef) -> Iterator[str]:
    yield from _names(cls.body)
    for node in ast.walk(cls):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            yield node.attr


def _properties(context: ast.ClassDef) -> Iterator[str]:
    """Yield the keys of the dictionary that `system_properties` is at first."""
    for node in ast.walk(context):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "self.system_properties":
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
            yield from (
                key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)
            )
