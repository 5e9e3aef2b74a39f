"""What `torchrelay migrate` prints, and how it exits."""

import json
from pathlib import Path

import pytest

from tests.cli.command_line import run
from tests.cli.migrate.archives import HANDLER, write


def test_a_check_says_what_runs_and_exits_with_1_if_something_doesnt(tmp_path: Path) -> None:
    write(tmp_path / "m.mar", {"h.py": HANDLER})
    done = run("migrate", "check", str(tmp_path))
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "1 file: 1 unchanged")
    write(tmp_path / "n.mar", {"h.py": f"import a_package_that_is_nowhere\n{HANDLER}"})
    done = run("migrate", "check", str(tmp_path))
    assert done.exit_code == 1
    assert "h.py:1: imports a_package_that_is_nowhere" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if str(tmp_path) not in line)
    assert run("migrate", "check", "--no-packages", str(tmp_path)).exit_code == 0


def test_a_check_is_told_to_programs_as_json(tmp_path: Path) -> None:
    write(tmp_path / "m.mar", {"h.py": "\x1b[31m"})
    done = run("migrate", "check", "--json", str(tmp_path))
    report = json.loads(done.stdout)
    assert (done.exit_code, report["summary"]["fails"]) == (1, 1)
    assert report["files"][0]["findings"][1]["inside"] == "h.py"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["check"], 2), (["check", "--nothing", "."], 2), (["check", "/nowhere/at/all"], 1)],
)
def test_wrong_usage_exits_with_2_and_a_missing_path_with_1(arguments: list[str], code: int) -> None:
    done = run("migrate", *arguments)
    assert done.exit_code == code
    assert "Traceback" not in done.output
