"""Habits that the house style asks for, so that nobody need remember them."""

import ast
import re
import subprocess
from pathlib import Path

from tests.contracts.source import ROOT, calls, own_modules, plant

BROAD_EXCEPTS_LIMIT = 5
BROAD_EXCEPT = re.compile(r"\s*except( \(?(Exception|BaseException)\)?( as \w+)?)?:")
#: Only what a person must not forget to do is written like this, and that is done instead.
LEFT_FOR_LATER = re.compile(r"\.\./shared|issue #?[0-9]+|\bTODO\b|\bFIXME\b|\bXXX\b")
#: Makes folders for somebody: an archive that a user makes is that user's own affair.
MAKERS_OF_FOLDERS = {"shared/private_files.py", "shared/archives/model_archive.py"}


def broad_excepts(root: Path) -> list[str]:
    """Return the lines that catch everything."""
    return [
        f"{module.name}: {line.strip()}"
        for module in own_modules(root)
        for line in module.text.splitlines()
        if BROAD_EXCEPT.match(line)
    ]


def readers_of_the_environment(root: Path) -> set[str]:
    """Return the modules that read variables."""
    return {m.name for m in own_modules(root) if re.search(r"os\.(environ|getenv)\b", m.text)}


def makers_of_folders(root: Path) -> set[str]:
    """Return the modules that make folders."""
    return {
        module.name
        for module in own_modules(root)
        for called, _ in calls(module.tree)
        if called.rpartition(".")[2] in ("mkdir", "makedirs")
    }


def lockers_of_files(root: Path) -> set[str]:
    """Return the modules that call flock or lockf."""
    return {
        module.name
        for module in own_modules(root)
        for called, _ in calls(module.tree)
        if called.rpartition(".")[2] in ("flock", "lockf")
    }


def printing(root: Path) -> list[str]:
    """Return where anything but the command line prints."""
    return [
        f"{module.name}:{line}"
        for module in own_modules(root, "broker", "gateway", "worker", "shared")
        for called, line in calls(module.tree)
        if called == "print"
    ]


def sleeping(root: Path) -> list[str]:
    """Return where tests sleep; code of models, which may well be slow, stands in texts and in `handlers`."""
    return [
        f"{path.relative_to(root).as_posix()}:{line}"
        for path in sorted((root / "tests").rglob("*.py"))
        if path.name != "support.py" and not {"golden", "handlers", "archives"} & {*path.parts, path.stem}
        for line in _sleeps(path)
    ]


def _sleeps(path: Path) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] == "sleep"
        and not (len(node.args) == 1 and ast.unparse(node.args[0]) == "0")
    ]


def left_for_later(root: Path, names: list[str]) -> list[str]:
    """Return what speaks of something else than the project, or leaves something for later."""
    return [
        f"{name}: {found[0]}"
        for name in names
        if (found := LEFT_FOR_LATER.search((root / name).read_text(encoding="utf-8")))
    ]


def texts(root: Path) -> list[str]:
    """Return the names of all texts of ours, committed or about to be."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split()
    return [
        name
        for name in listed
        if name.endswith((".py", ".md", ".toml", ".yaml", "Makefile"))
        and "golden" not in name
        and (root / name).exists()
    ]


def test_broad_excepts_are_few_and_each_says_why(tmp_path: Path) -> None:
    found = broad_excepts(ROOT)
    assert [line for line in found if "# boundary:" not in line] == []
    assert len(found) <= BROAD_EXCEPTS_LIMIT, found
    forms = ["except:", "except Exception:", "except BaseException as error:", "except (Exception):"]
    text = "\n".join(f"try:\n    f()\n{form}\n    pass" for form in [*forms, "except ValueError:"])
    assert broad_excepts(plant(tmp_path, {"broker/x.py": text})) == [f"broker/x.py: {form}" for form in forms]


def test_the_environment_is_read_by_settings_alone(tmp_path: Path) -> None:
    assert readers_of_the_environment(ROOT) == {"shared/settings.py"}
    files = {"broker/x.py": "import os\nos.environ['A']", "cli/y.py": "import os\nos.getenv('A')"}
    assert readers_of_the_environment(plant(tmp_path, files)) == {"broker/x.py", "cli/y.py"}


def test_folders_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    assert makers_of_folders(ROOT) == MAKERS_OF_FOLDERS
    files = {"broker/x.py": "path.mkdir()", "worker/y.py": "os.makedirs(path)", "cli/z.py": "make(path)"}
    assert makers_of_folders(plant(tmp_path, files)) == {"broker/x.py", "worker/y.py"}


def test_files_are_locked_in_one_place(tmp_path: Path) -> None:
    assert lockers_of_files(ROOT) == {"shared/locks.py"}
    files = {"broker/x.py": "fcntl.flock(file, 2)", "cli/z.py": "locks.try_flock(file)"}
    assert lockers_of_files(plant(tmp_path, files)) == {"broker/x.py"}


def test_only_the_command_line_prints(tmp_path: Path) -> None:
    assert printing(ROOT) == []
    files = {"broker/x.py": "def f():\n    print(1)", "cli/x.py": "print(1)", "shared/x.py": "'print(1)'"}
    assert printing(plant(tmp_path, files)) == ["broker/x.py:2"]


def test_tests_wait_for_conditions_not_for_time(tmp_path: Path) -> None:
    assert sleeping(ROOT) == []
    files = {
        "tests/test_a.py": "import time\ntime.sleep(1)",
        "tests/test_b.py": "async def f():\n    await asyncio.sleep(0)\n    await asyncio.sleep(0.1)",
        "tests/test_c.py": "HANDLER = 'time.sleep(1)'",
        "tests/support.py": "time.sleep(0.01)",
    }
    assert sleeping(plant(tmp_path, files)) == ["tests/test_a.py:2", "tests/test_b.py:3"]


def test_the_project_speaks_of_itself_and_leaves_nothing_for_later(tmp_path: Path) -> None:
    names = [name for name in texts(ROOT) if name != "tests/contracts/test_habits.py"]
    assert len(names) > 300
    assert left_for_later(ROOT, names) == []
    for text in ("# TODO: later", "see issue 7", "as in ../shared/design.md", "x = 1  # FIXME"):
        assert left_for_later(plant(tmp_path, {"x.py": text}), ["x.py"])
