"""What a Python source says without being run: what it imports, defines, and asks of its context. Pure.

Sources are not trusted. Whoever reads those of others does so in a process of its own (`reader`): some texts
make Python's parser take all memory, or end its process.
"""

import ast
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

#: Larger ones are data in the form of a source.
SOURCE_LIMIT_BYTES = 2 << 20
#: Of each list below.
FACTS_LIMIT = 1000
#: How handlers call what TorchServe gives them.
_CONTEXT_NAMES = frozenset({"context", "ctx"})

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
#: When an import is done: with the module, when a function is called, or where it may fail or not be reached.
ImportTime = Literal["loading", "calling", "perhaps"]


class Import(msgspec.Struct, frozen=True):
    """`import MODULE`, or `from MODULE import NAMES`."""

    module: str
    names: tuple[str, ...]
    line: int
    time: ImportTime


class ContextUse(msgspec.Struct, frozen=True):
    """An attribute of the context: `manifest`, `metrics.add_time`, `system_properties.gpu_id`."""

    attribute: str
    line: int


class SourceFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A source as it was read; with a `fault` the rest is empty."""

    imports: tuple[Import, ...] = ()
    context_uses: tuple[ContextUse, ...] = ()
    #: Attributes of its own that it keeps on the context.
    context_sets: tuple[str, ...] = ()
    #: Functions of the module, and what else it assigns; both can be called.
    functions: tuple[str, ...] = ()
    #: Those that it defines.
    classes: tuple[str, ...] = ()
    #: Lines with a `torch.load` that doesn't say `weights_only`.
    bare_loads: tuple[int, ...] = ()
    fault: str = ""
    fault_line: int = 0


def read(content: bytes) -> SourceFacts:
    """Read a source."""
    if len(content) > SOURCE_LIMIT_BYTES:
        return SourceFacts(fault=f"has more than {SOURCE_LIMIT_BYTES >> 20} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd literals, which are for whoever wrote it
            tree = ast.parse(content)
    except SyntaxError as error:
        return SourceFacts(fault=error.msg, fault_line=error.lineno or 0)
    except (ValueError, RecursionError, MemoryError) as error:
        return SourceFacts(fault=str(error) or "nested too deeply")
    uses = sorted(set(_context_uses(tree)), key=lambda use: (use.line, use.attribute))
    # What an `if` or `try` of the module defines counts as well; what is in functions doesn't.
    top = list(_flat(tree.body))
    defined = [node for node in top if isinstance(node, _Definition)]
    return SourceFacts(
        imports=tuple(_imports(tree.body, "loading"))[:FACTS_LIMIT],
        context_uses=tuple(uses)[:FACTS_LIMIT],
        context_sets=tuple(sorted(set(_context_sets(tree))))[:FACTS_LIMIT],
        functions=_once(
            [*(node.name for node in defined if not isinstance(node, ast.ClassDef)), *_assigned(top)]
        ),
        classes=_once(node.name for node in defined if isinstance(node, ast.ClassDef)),
        bare_loads=tuple(sorted(_bare_loads(tree)))[:FACTS_LIMIT],
    )


def _once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))[:FACTS_LIMIT]


def _assigned(statements: Iterable[ast.stmt]) -> Iterator[str]:
    for node in statements:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _flat(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if not isinstance(node, _Definition):
            for inner in _bodies(node):
                yield from _flat(inner)


def _bodies(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    """Yield the blocks of a compound statement."""
    for field in ("body", "orelse", "finalbody"):
        if isinstance(inner := getattr(node, field, None), list):
            yield inner
    for handler in getattr(node, "handlers", ()):
        yield handler.body
    for case in getattr(node, "cases", ()):
        yield case.body


def _imports(body: Sequence[ast.stmt], time: ImportTime) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(name.name, (), node.lineno, time) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield Import(node.module, tuple(name.name for name in node.names), node.lineno, time)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imports(node.body, "calling" if time == "loading" else time)
        elif isinstance(node, ast.Try | ast.If | ast.Match):
            for inner in _bodies(node):
                yield from _imports(inner, "perhaps")
        else:
            for inner in _bodies(node):
                yield from _imports(inner, time)


def _context_uses(tree: ast.Module) -> Iterator[ContextUse]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = _context_parameters(node)
            if names:
                yield from _uses_in(node, names)
        elif isinstance(node, ast.ClassDef):
            yield from _uses_in(node, frozenset())


def _uses_in(scope: ast.AST, names: frozenset[str]) -> Iterator[ContextUse]:
    for node in ast.walk(scope):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if _is_context(node.value, names):
                yield ContextUse(node.attr, node.lineno)
            elif _is_part(node.value, "metrics", names):
                yield ContextUse(f"metrics.{node.attr}", node.lineno)
        elif isinstance(node, ast.expr) and (key := _property(node, names)) is not None:
            yield ContextUse(f"system_properties.{key}", node.lineno)


def _property(node: ast.expr, names: frozenset[str]) -> str | None:
    """Return the key of `context.system_properties[KEY]` and `.get(KEY)`."""
    owner: ast.AST | None = None
    key: ast.AST | None = None
    if isinstance(node, ast.Subscript):
        owner, key = node.value, node.slice
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        owner, key = node.func.value, node.args[0] if node.args else None
    if _is_part(owner, "system_properties", names):
        return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None
    return None


def _is_part(node: ast.AST | None, attribute: str, names: frozenset[str]) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == attribute and _is_context(node.value, names)


def _is_context(node: ast.AST, names: frozenset[str]) -> bool:
    """Tell whether this is the context: a parameter of that name, or `self.context`."""
    if isinstance(node, ast.Name):
        return node.id in names
    if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
        return False
    return node.value.id == "self" and node.attr.lstrip("_") in _CONTEXT_NAMES


def _context_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> frozenset[str]:
    """Return the parameters that hold the context: the last one, of such a name, that is never assigned.

    Handlers for questions about texts call those texts `context`, too.
    """
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    found = _CONTEXT_NAMES & set(names[-1:])
    assigned = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and not _is_read(node)}
    return found - assigned


def _is_read(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Load)


def _context_sets(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store):
            continue
        if _is_context(node.value, _CONTEXT_NAMES):
            yield node.attr


def _bare_loads(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not _is_torch_load(node.func):
            continue
        if not any(keyword.arg in ("weights_only", None) for keyword in node.keywords):
            yield node.lineno


def _is_torch_load(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
        return False
    return (node.value.id, node.attr) == ("torch", "load")
