"""What the pages say is so: files that they name exist, generated parts are current."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.source import PACKAGES, ROOT, modules, plant

PAGES = (
    *(
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "tests/README.md",
        "benchmarks/README.md",
    ),
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)
#: A file or folder of ours in backticks, or a function or class of one behind it in brackets.
FOLDERS = "|".join((*PACKAGES, "tests", "benchmarks", "docs", "deploy", "examples"))
NAMED = re.compile(rf"`((?:{FOLDERS})/[\w./*<>-]*)`(?: \(`(\w+)`\))?")
#: `SIZE_LIMIT_BYTES`, `urls.URL_LIMIT_CHARS`
CONSTANT = re.compile(r"`(?:\w+\.)?_?([A-Z]{2,}(?:_[A-Z0-9]+)+)`")


def missing_files(root: Path, page: str) -> list[str]:
    """Return the files and folders that a page names and that are not there, and what is in none of them."""
    missing = []
    for name, inside in NAMED.findall((root / page).read_text(encoding="utf-8")):
        if re.search(r"[*<>]|\.\.\.", name):
            continue  # a pattern
        path = root / name
        if not path.exists():
            missing.append(name)
        elif inside and not re.search(rf"\b(def|class) {inside}\b", path.read_text(encoding="utf-8")):
            missing.append(f"{inside} in {name}")
    return missing


def unknown_constants(root: Path, page: str) -> list[str]:
    """Return the bounds that a page names and no module has."""
    known = "\n".join(module.text for module in modules(root))
    named = sorted(set(CONSTANT.findall((root / page).read_text(encoding="utf-8"))))
    return [
        name
        for name in named
        if not name.startswith("TORCHRELAY_") and not re.search(rf"\b_?{name}\b", known)
    ]


def folders_left_out(root: Path, page: str) -> list[str]:
    """Return the folders of the packages that a page doesn't name."""
    text = (root / page).read_text(encoding="utf-8")
    folders = sorted({m.path.parent.relative_to(root).as_posix() for m in modules(root) if not m.is_compat})
    return [folder for folder in folders if "/" in folder and f"`{folder}/`" not in text]


def generator() -> Any:  # a script without types
    import importlib.util

    spec = importlib.util.spec_from_file_location("docs_generate_wire", ROOT / "docs" / "generate_wire.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    assert missing_files(ROOT, page) == []


def test_the_map_names_every_folder_and_the_files_that_decide() -> None:
    page = "docs/architecture.md"
    assert folders_left_out(ROOT, page) == []
    assert len(NAMED.findall((ROOT / page).read_text())) > 100


def test_bounds_that_are_named_exist() -> None:
    assert unknown_constants(ROOT, "SECURITY.md") == []


def test_what_a_page_names_wrongly_is_found(tmp_path: Path) -> None:
    text = (
        "`broker/core/machine.py` (`_sweep`), `broker/gone.py`, `broker/core/machine.py` (`gone`), "
        "`broker/*/x.py`, `tests/<package>/x`, `SIZE_LIMIT`, `machine.GONE_LIMIT`, `broker/core/`\n"
    )
    files = {
        "page.md": text,
        "broker/core/machine.py": "SIZE_LIMIT = 1\ndef _sweep(): ...",
        "broker/jobs/x.py": "",
    }
    root = plant(tmp_path, files)
    assert missing_files(root, "page.md") == ["broker/gone.py", "gone in broker/core/machine.py"]
    assert unknown_constants(root, "page.md") == ["GONE_LIMIT"]
    assert folders_left_out(root, "page.md") == ["broker/jobs"]


def test_the_page_of_the_wire_is_current() -> None:
    message = "run: python docs/generate_wire.py"
    assert (ROOT / "docs" / "wire.md").read_text() == generator().wire(), message


def test_the_page_of_the_wire_has_every_message_and_every_state() -> None:
    from torchrelay.broker.core import states
    from torchrelay.shared.wire import codec

    page = (ROOT / "docs" / "wire.md").read_text()
    for kind, cls in codec.KINDS.items():
        assert f"### {cls.__name__} ({kind})\n" in page
    for table in (states.JOB_MOVES, states.WORKER_MOVES):
        for old, news in table.items():
            for new in news:
                assert re.search(rf"^    {old} --> {new} : \S", page, re.MULTILINE), (old, new)


def test_the_example_of_the_rig_runs() -> None:
    page = (ROOT / "tests" / "README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert examples
    for example in examples:
        exec(example, {})  # noqa: S102  # our own page


def test_the_seed_to_replay_is_one_of_a_test() -> None:
    from tests.simulation import test_fleet

    page = (ROOT / "tests" / "README.md").read_text()
    (name, seed, scenario), *more = re.findall(
        r"pytest 'tests/simulation/test_fleet.py::(\w+)\[(\d+)-(\w+)\]'", page
    )
    assert more == []
    assert scenario in test_fleet.SCENARIOS
    marks = getattr(test_fleet, name).pytestmark
    assert any(int(seed) in mark.args[1] for mark in marks if mark.args[0] == "seed")


def test_a_move_without_a_reason_stops_the_writing() -> None:
    from torchrelay.broker.core.states import JobState

    made = generator()
    moves = {JobState.QUEUED: frozenset({JobState.RUNNING}), JobState.RUNNING: frozenset[JobState]()}
    assert made.table_moves(moves, {("queued", "running"): "why"}) == {("queued", "running"): "why"}
    with pytest.raises(KeyError):
        made.table_moves(moves, {})
