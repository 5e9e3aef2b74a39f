"""What travels is read: each field of a message, or of its parts, has a reader somewhere in the packages."""

import ast
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tests.contracts.source import PACKAGES, ROOT, own_modules, plant
from torchrelay.shared.wire import codec, items
from torchrelay.shared.wire import messages as m


def unread(root: Path, classes: Iterable[type[msgspec.Struct]]) -> list[str]:
    """Return the fields that nobody reads, as an attribute by this name or by a `case` of the class."""
    attributes: set[str] = set()
    matched: dict[str, set[str]] = {}
    fields = {cls.__name__: cls.__struct_fields__ for cls in classes}
    for module in own_modules(root, *PACKAGES):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                    attributes.add(node.attr)
            elif isinstance(node, ast.MatchClass):
                name = ast.unparse(node.cls).rpartition(".")[2]
                named = (*fields.get(name, ())[: len(node.patterns)], *node.kwd_attrs)
                matched.setdefault(name, set()).update(named)
    return [
        f"{name}.{field}"
        for name, names in fields.items()
        for field in names
        if field not in attributes and field not in matched.get(name, ())
    ]


def test_every_field_of_the_wire_has_a_reader() -> None:
    parts = [cls for cls in vars(items).values() if isinstance(cls, type) and issubclass(cls, items.Item)]
    assert unread(ROOT, [*codec.KINDS.values(), *parts]) == []


def test_a_field_without_a_reader_is_found(tmp_path: Path) -> None:
    files = {
        "broker/x.py": "match x:\n    case m.StopWorker(first):\n        print(x.kill, self.reason)",
        "worker/y.py": "x.also = m.StopWorker(is_unregistered=True)",
    }
    expected = ["StopWorker.reason", "StopWorker.is_unregistered", "StopWorker.also"]
    assert unread(plant(tmp_path, files), [m.StopWorker]) == expected
