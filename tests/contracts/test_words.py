"""One thing has one name: the words that docs/architecture.md says are not used."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.contracts.source import PACKAGES, ROOT, plant

PAGE = "docs/architecture.md"
TITLE = "## Words that are not used"
#: What is read: code with its docstrings and comments, and the pages for people.
FOLDERS = (*PACKAGES, "benchmarks", "docs", "tests")
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
#: What is TorchServe's, or says these words to test for them.
LEFT_OUT = ("tests/golden/*", "tests/compatibility/*", "tests/contracts/*", PAGE)
#: `best_worker`, `BestWorker` and `bestWorkers` have the same two words.
PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def unused_words(page: str) -> dict[str, list[str]]:
    """Read the table: each word, and the files in which it may stand."""
    words: dict[str, list[str]] = {}
    for line in page.partition(TITLE)[2].splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")] if line.startswith("|") else []
        if len(cells) >= 2 and cells[0] != "not" and not cells[0].startswith("--"):
            places = re.findall(r"`([^`]+)`", cells[2]) if len(cells) > 2 else []
            words |= {word.strip(): places for word in cells[0].split(",")}
    return words


def found_in(text: str, words: dict[str, list[str]]) -> set[str]:
    """Return those of these words that a text has, in whatever spelling."""
    found = {part.lower() for part in PARTS.findall(text)}
    return {word for word in words if found & {word, f"{word}s"}}


def texts(root: Path) -> dict[str, str]:
    """Return all that is read, by name."""
    paths = [path for folder in FOLDERS for end in ("py", "md") for path in (root / folder).rglob(f"*.{end}")]
    names = {path.relative_to(root).as_posix(): path for path in [*paths, *(root / page for page in PAGES)]}
    return {
        name: f"{name}\n{path.read_text(encoding='utf-8')}"
        for name, path in sorted(names.items())
        if path.exists() and not any(fnmatch(name, pattern) for pattern in LEFT_OUT)
    }


def offenders(root: Path) -> dict[str, set[str]]:
    """Map each file with a word that isn't used, and may not stand there, to these words."""
    words = unused_words((root / PAGE).read_text(encoding="utf-8"))
    found = {
        name: {
            word
            for word in found_in(text, words)
            if not any(fnmatch(name, pattern) for pattern in words[word])
        }
        for name, text in texts(root).items()
    }
    return {name: said for name, said in found.items() if said}


def idle_exceptions(root: Path) -> list[str]:
    """Return the exceptions of the table that no file needs."""
    words = unused_words((root / PAGE).read_text(encoding="utf-8"))
    read = {name: found_in(text, words) for name, text in texts(root).items()}
    return [
        f"{word} in {pattern}"
        for word, patterns in words.items()
        for pattern in patterns
        if not any(word in said and fnmatch(name, pattern) for name, said in read.items())
    ]


def test_words_that_are_not_used_are_not_used() -> None:
    assert offenders(ROOT) == {}, f"{PAGE} says what to say instead"


def test_every_exception_is_needed() -> None:
    assert len(unused_words((ROOT / PAGE).read_text(encoding="utf-8"))) > 15
    assert idle_exceptions(ROOT) == []


TABLE = f"""# Page
{TITLE}

| not | but | except in |
|---|---|---|
| nursery, ward | worker processes | |
| task | job | `worker/node/*`: asyncio's |
| desk | answers | `cli/gone.py` |
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Nursery: ...", {"nursery"}),
        ("self._wards = {}", {"ward"}),
        ("# In the ward.", {"ward"}),
        ("def forward(): 'towards the warden'", set()),
        ("workTask = TASK_LIMIT", {"task"}),
        ("multitasking", set()),
    ],
)
def test_a_word_is_found_in_any_spelling(tmp_path: Path, text: str, words: set[str]) -> None:
    root = plant(tmp_path, {PAGE: TABLE, "broker/x.py": text, "worker/node/y.py": "asyncio.create_task"})
    assert offenders(root) == ({"broker/x.py": words} if words else {})


def test_names_of_files_are_read_as_well_and_idle_exceptions_are_found(tmp_path: Path) -> None:
    root = plant(tmp_path, {PAGE: TABLE, "docs/desk.md": "", "worker/node/y.py": "task"})
    assert offenders(root) == {"docs/desk.md": {"desk"}}
    assert idle_exceptions(root) == ["desk in cli/gone.py"]
