"""Size and habits that the house style asks for, so that nobody need remember them."""

import ast
import re
import subprocess

import pytest

from tests.contracts.source import ROOT, name, sources, tree

FILE_LIMIT_LINES = 600
#: The machine itself; also the best-commented file.
LONG_FILES = {"broker/core/machine.py"}
FUNCTION_LIMIT_LINES = 60
BROAD_EXCEPTS_LIMIT = 5


def test_files_are_short_enough_to_be_read_in_one_sitting() -> None:
    long = {
        name(path): n for path in sources() if (n := len(path.read_text().splitlines())) > FILE_LIMIT_LINES
    }
    assert set(long) <= LONG_FILES, long


def test_functions_fit_on_a_screen() -> None:
    """The signature isn't counted: a command's options are many, and documented there."""
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.body[0].lineno + 1
                assert lines <= FUNCTION_LIMIT_LINES, (
                    f"{name(path)}:{node.lineno} {node.name} has {lines} lines"
                )


def test_broad_excepts_are_few_and_each_says_why() -> None:
    broad = [
        f"{name(path)}: {line.strip()}"
        for path in sources()
        for line in path.read_text().splitlines()
        if re.match(r"\s*except( \(?(Exception|BaseException)\)?( as \w+)?)?:", line)
    ]
    assert not [line for line in broad if "# boundary:" not in line]
    assert len(broad) <= BROAD_EXCEPTS_LIMIT, broad


def test_environment_is_read_by_settings_alone() -> None:
    readers = [name(path) for path in sources() if re.search(r"os\.(environ|getenv)\b", path.read_text())]
    assert set(readers) <= {"shared/settings.py"}, readers


def test_folders_are_made_for_their_owner_alone() -> None:
    """But for those of an archive that somebody makes, which are that user's own affair."""
    making = [name(path) for path in sources() if re.search(r"\.mkdir\(|os\.makedirs", path.read_text())]
    assert set(making) == {"shared/private_files.py", "shared/archives/model_archive.py"}


def test_package_init_files_hold_one_docstring() -> None:
    for path in sources():
        if path.name == "__init__.py":
            body = tree(path).body
            assert len(body) <= 1, f"{name(path)} does more than say what it is"


def test_only_the_command_line_prints() -> None:
    printing = [name(path) for path in sources("broker", "gateway", "worker", "shared")
                if re.search(r"^\s*print\(", path.read_text(), re.MULTILINE)]  # fmt: skip
    assert not printing


def test_tests_wait_for_conditions_not_for_time() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.name in ("support.py", "test_shape.py") or "golden" in path.parts:
            continue
        if {"handlers", "archives"} & {*path.parts, path.stem}:
            continue  # code of models, which may well be slow
        for number, line in enumerate(path.read_text().splitlines(), 1):
            is_model_code = '"' in line or "'" in line
            assert not re.search(r"\bsleep\((?!0\))", line) or is_model_code, (
                f"{name(path)}:{number}: {line.strip()}"
            )


@pytest.mark.parametrize("words", [r"\.\./shared", r"issue #?[0-9]+", r"\bTODO\b", r"\bFIXME\b", r"\bXXX\b"])
def test_the_project_speaks_of_itself_and_leaves_nothing_for_later(words: str) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    mine = [
        f for f in tracked if f.endswith((".py", ".md", ".toml", ".yaml", "Makefile")) and "golden" not in f
    ]
    guilty = [f for f in mine if f != "tests/contracts/test_shape.py" and (ROOT / f).exists()
              and re.search(words, (ROOT / f).read_text(encoding="utf-8"))]  # fmt: skip
    assert not guilty
