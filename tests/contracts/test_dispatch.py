"""Unions have all their members, and whoever takes a union's values has a branch for each of them."""

import ast
from pathlib import Path

import pytest

from tests.contracts.source import ROOT, modules, parsed, plant

#: File of a union, the union, and the base class of its members ("" for dataclasses).
UNIONS = (
    ("broker/core/events.py", ("Event",), ""),
    ("broker/core/effects.py", ("Effect",), ""),
    (
        "shared/wire/messages.py",
        ("FromGateway", "FromNode", "FromWorker", "ToGateway", "ToNode", "ToWorker", "ToNewcomer"),
        "Message",
    ),
)
MESSAGES = "shared/wire/messages.py"
LAUNCHER = "worker/launcher/launcher_protocol.py"
READER = "shared/archives/reader_protocol.py"
#: File of a union, the union, and the files or folders that have a branch for each member between them.
DISPATCHERS = (
    ("broker/core/events.py", "Event", ("broker/core/", "broker/models/")),
    ("broker/core/effects.py", "Effect", ("broker/server.py", "broker/network/")),
    (MESSAGES, "FromGateway", ("broker/core/",)),
    (MESSAGES, "FromNode", ("broker/core/",)),
    (MESSAGES, "FromWorker", ("broker/core/",)),
    # What `Announced` says is only how long its sender may be silent.
    (MESSAGES, "ToGateway", ("gateway/session.py", "shared/wire/")),
    (MESSAGES, "ToNode", ("worker/node/", "worker/common/", "shared/wire/")),
    (MESSAGES, "ToWorker", ("worker/model/", "worker/common/", "shared/wire/")),
    (LAUNCHER, "Report", ("worker/node/worker_processes.py",)),
    (READER, "Work", ("shared/archives/reader_process.py",)),
    (READER, "Answer", ("shared/archives/reader.py",)),
    (MESSAGES, "Question", ("broker/core/",)),
    (MESSAGES, "Change", ("broker/models/",)),
)
#: A node logs it as it does everything else that it can't act on.
BY_THE_REST = {("ToNode", "Misunderstood")}


def members(tree: ast.Module, union: str) -> set[str]:
    """Return the classes of a union `A | B | C`, through unions that it names."""
    aliases = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found: set[str] = set()
    waiting = [union]
    while waiting:
        name = waiting.pop()
        if name in aliases:
            waiting += [node.id for node in ast.walk(aliases[name]) if isinstance(node, ast.Name)]
        else:
            found.add(name)
    return found


def left_out(root: Path, file: str, unions: tuple[str, ...], base: str) -> list[str]:
    """Return the classes of a file that are in none of its unions."""
    tree = parsed(root / file)
    known = set().union(*(members(tree, union) for union in unions))
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and _is_member(node, base) and node.name not in known
    ]


def _is_member(node: ast.ClassDef, base: str) -> bool:
    if base:
        return base in {ast.unparse(one) for one in node.bases}
    return any("dataclass" in ast.unparse(one) for one in node.decorator_list)


def without_branch(root: Path, file: str, union: str, places: tuple[str, ...]) -> list[str]:
    """Return the members of a union that these files have no branch for.

    A branch is a case of a `match`, an isinstance, a comparison of a type, or a key of a table.
    """
    tree = parsed(root / file)
    handled: set[str] = set()
    for module in modules(root):
        if module.name.startswith(places):
            handled |= {name for name in _branches(module.tree) for name in members(tree, name)}
    return sorted(members(tree, union) - handled)


def _branches(tree: ast.Module) -> set[str]:
    named: list[ast.expr] = []
    for node in ast.walk(tree):
        match node:
            case ast.MatchClass(cls=cls):
                named.append(cls)
            case ast.Dict(keys=keys):
                named += [key for key in keys if key is not None]
            case ast.Call(func=ast.Name("isinstance"), args=[_, kinds]):
                named += kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
            case ast.Call(func=ast.Name("get_args"), args=[kind]):
                named.append(kind)
            case ast.Compare(comparators=[kind]):
                named.append(kind)
    texts = (ast.unparse(one) for expression in named for one in _alternatives(expression))
    return {text.rpartition(".")[2] for text in texts}


def _alternatives(expression: ast.expr) -> list[ast.expr]:
    """Return the classes of `A | B`."""
    if isinstance(expression, ast.BinOp):
        return [*_alternatives(expression.left), *_alternatives(expression.right)]
    return [expression]


@pytest.mark.parametrize(("file", "unions", "base"), UNIONS)
def test_a_union_has_all_its_members(file: str, unions: tuple[str, ...], base: str) -> None:
    assert left_out(ROOT, file, unions, base) == []


@pytest.mark.parametrize(("file", "union", "places"), DISPATCHERS, ids=lambda value: str(value)[:30])
def test_whoever_takes_a_union_has_a_branch_for_each_member(
    file: str, union: str, places: tuple[str, ...]
) -> None:
    assert len(members(parsed(ROOT / file), union)) > 1
    missing = {(union, name) for name in without_branch(ROOT, file, union, places)}
    assert missing == {one for one in BY_THE_REST if one[0] == union}


EVENTS = """
@dataclass(frozen=True)
class Came: ...
@dataclass(frozen=True)
class Went: ...
class Helper: ...
Known = Came
Event = Known | Went
"""


def test_a_class_that_is_in_no_union_is_found(tmp_path: Path) -> None:
    root = plant(tmp_path, {"whole.py": EVENTS, "short.py": EVENTS.replace("Known | Went", "Known")})
    assert left_out(root, "whole.py", ("Event",), "") == []
    assert left_out(root, "short.py", ("Event",), "") == ["Went"]


@pytest.mark.parametrize(
    "branch",
    [
        "match event:\n    case e.Went(): ...",
        "match event:\n    case e.Other() | Went(): ...",
        "isinstance(event, e.Went)",
        "isinstance(event, e.Other | e.Went)",
        "type(event) is Went",
        "TABLE = {e.Went: 1}",
        "TABLE = dict.fromkeys(get_args(e.Event), 1)",
    ],
)
def test_a_member_without_a_branch_is_found(tmp_path: Path, branch: str) -> None:
    files = {"broker/events.py": EVENTS, "broker/machine.py": "isinstance(event, Came)\nprint(Went)\n"}
    root = plant(tmp_path / "short", files)
    assert without_branch(root, "broker/events.py", "Event", ("broker/machine.py",)) == ["Went"]
    files["broker/machine.py"] += branch
    root = plant(tmp_path / "whole", files)
    assert without_branch(root, "broker/events.py", "Event", ("broker/machine.py",)) == []
