"""A source tree as the contracts see it: its modules, what they import, and small trees made for tests.

Every rule is a function over the root of such a tree that returns what breaks it, one line each. So a test
of the rule itself can plant a small tree that breaks it (`plant`), and see that it is found.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: What our packages are imported under: `torchrelay.broker` is the folder `broker`.
PREFIX = "torchrelay."
PACKAGES = ("broker", "worker", "gateway", "client", "shared", "cli")
#: Its folders are on the path of a worker, so that its modules are `ts` and what lies below that.
COMPAT = "worker/compat"


@dataclass(frozen=True)
class Module:
    """One Python file of ours."""

    #: As it is imported, without the prefix: `broker.core.states`, `ts.context`.
    dotted: str
    #: From the root of the tree: `broker/core/states.py`.
    name: str
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def tree(self) -> ast.Module:
        return parsed(self.path)

    @property
    def package(self) -> str:
        return self.name.partition("/")[0]

    @property
    def is_compat(self) -> bool:
        return self.name.startswith(f"{COMPAT}/")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules(root: Path, *folders: str) -> list[Module]:
    """Return the modules below these folders (all packages, if none is named), `compat` included."""
    found = {path for folder in folders or PACKAGES for path in (root / folder).rglob("*.py")}
    return [_module(root, path) for path in sorted(found)]


def own_modules(root: Path, *folders: str) -> list[Module]:
    """Return the same without what archives import, which has TorchServe's own layout and names."""
    return [module for module in modules(root, *folders) if not module.is_compat]


def _module(root: Path, path: Path) -> Module:
    name = path.relative_to(root).as_posix()
    dotted = name.removeprefix(f"{COMPAT}/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return Module(dotted, name, path)


def imports(module: Module) -> set[str]:
    """Return the full names of all that a module imports, at any depth and also for types alone.

    `from a import b` counts as `a` and `a.b`, since `b` may be a module.
    """
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = _above(module, node.level)
            base = ".".join(part for part in (above, node.module or "") if part)
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def _above(module: Module, level: int) -> str:
    if not level:
        return ""
    parts = module.dotted.split(".")
    kept = len(parts) - level + module.name.endswith("/__init__.py")
    return PREFIX + ".".join(parts[:kept])


def libraries(module: Module) -> set[str]:
    """Return the top names of what a module imports of others."""
    return {full.partition(".")[0] for full in imports(module)} - {"torchrelay", "ts"}


def graph(root: Path, *folders: str) -> dict[str, set[str]]:
    """Map each module to those modules of these folders that it imports, by dotted names."""
    known = {module.dotted: module for module in modules(root, *folders)}
    edges = {}
    for dotted, module in known.items():
        named = {full.removeprefix(PREFIX) for full in imports(module)}
        targets = {name for name in named if name in known}
        # `from package import module` needs the package only for its name, which is nothing but a docstring.
        inner = {name.rpartition(".")[0] for name in targets}
        packages = {name for name in targets if known[name].name.endswith("/__init__.py")}
        edges[dotted] = targets - (packages & inner) - {dotted}
    return edges


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield what a tree calls, as it is written (`open`, `logging.getLogger`), and the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def plant(root: Path, files: Mapping[str, str]) -> Path:
    """Make a small tree: a file of each name with its text."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
