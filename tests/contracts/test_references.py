"""What docstrings and comments send a reader to is there: modules, files, and what stands behind "see"."""

import re
from pathlib import Path

from tests.contracts.source import PACKAGES, ROOT, Module, modules, plant

FOLDERS = (*PACKAGES, "benchmarks", "tests")
#: `broker/core/machine.py`, `shared.errors.rebuild`; of two parts, `worker.output` is an event of the log.
OF_OURS = re.compile(rf"`((?:{'|'.join(FOLDERS)})(?:(?:\.\w+){{2,}}|(?:/\w+)+(?:\.py)?))`")
SEE = re.compile(r"\b[Ss]ee `([\w.]+)`")


def lost_references(root: Path) -> list[str]:
    """Return what is named as a module or file of ours, or behind "see", and can't be found."""
    read = [
        m for m in modules(root, *FOLDERS) if not m.name.startswith(("tests/golden/", "tests/contracts/"))
    ]
    known = {module.dotted: module for module in read}
    stems = {module.path.stem for module in read}
    everything = "\n".join(module.text for module in read)
    lost = []
    for module in read:
        named = OF_OURS.findall(module.text)
        lost += [f"{module.name}: {name}" for name in named if not _is_there(root, name, known)]
        seen = {name.rpartition(".")[2] for name in SEE.findall(module.text) if name not in named}
        lost += [
            f"{module.name}: {name}" for name in sorted(seen - stems) if not _is_defined(name, everything)
        ]
    return lost


def _is_there(root: Path, name: str, known: dict[str, Module]) -> bool:
    dotted = name.removesuffix(".py").replace("/", ".")
    module, _, inside = dotted.rpartition(".")
    if dotted in known or (root / name).exists():
        return True
    return module in known and _is_defined(inside, known[module].text)


def _is_defined(name: str, text: str) -> bool:
    """Tell whether something of a name is defined: a function, a class, a value, a field, an argument."""
    return re.search(rf"\b(?:def|class) {name}\b|\b{name}\b\s*[:=]", text) is not None


def test_what_a_reader_is_sent_to_is_there() -> None:
    assert lost_references(ROOT) == []


def test_what_is_gone_is_found(tmp_path: Path) -> None:
    files = {
        "broker/core/machine.py": '"""Its shell is `broker.core.server`; see `broker.core.states.MOVES`."""',
        "broker/core/states.py": "# `broker/core/lost.py`, see `check`, or see `machine`. See `gone`.\n"
        "MOVES = 1\ndef check(): ...\n",
        "gateway/link.py": "#: See `broker.core.states.LOST`, and what `gateway.said` says.\n",
    }
    assert lost_references(plant(tmp_path, files)) == [
        "broker/core/machine.py: broker.core.server",
        "broker/core/states.py: broker/core/lost.py",
        "broker/core/states.py: gone",
        "gateway/link.py: broker.core.states.LOST",
    ]
