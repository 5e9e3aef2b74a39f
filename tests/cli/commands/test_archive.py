"""Archives are made and checked without a server."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.command_line import run


def test_an_archive_is_made_and_inspected_without_a_server(tmp_path: Path) -> None:
    handler = tmp_path / "handler.py"
    handler.write_text("def handle(data, context):\n    return data\n")
    target = tmp_path / "echo.mar"
    arguments = ["archive", "create", str(target), "--model-name", "echo", "--handler", str(handler)]
    made = run(*arguments)
    assert (made.exit_code, target.is_file()) == (0, True), made.output
    shown = run("archive", "inspect", str(target))
    assert "echo" in shown.output
    assert (
        json.loads(run("archive", "inspect", str(target), "--json").stdout)["manifest"]["handler"]
        == "handler.py"
    )
    again = run(*arguments)
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1)
    assert run(*arguments, "--force").exit_code == 0


ARCHIVER_FORMS = {"default": "m.mar", "zip-store": "m.mar", "tgz": "m.tar.gz", "no-archive": "m"}


@pytest.mark.parametrize(("form", "name"), ARCHIVER_FORMS.items())
def test_an_archive_is_made_with_the_archivers_own_options(tmp_path: Path, form: str, name: str) -> None:
    for file in (
        "handler.py",
        "weights.pt",
        "a.txt",
        "b.txt",
        "vocab.json",
        "requirements.txt",
        "model.yaml",
    ):
        (tmp_path / file).write_text(f"# {file}")
    extra = f"{tmp_path}/*.txt,{tmp_path}/vocab.json"
    given = ["--model-name", "m", "-v", "2.0", "--handler", str(tmp_path / "handler"), "--extra-files", extra,
             "--serialized-file", str(tmp_path / "weights.pt"), "-r", str(tmp_path / "requirements.txt"),
             "-c", str(tmp_path / "model.yaml"), "--archive-format", form,
             "--export-path", str(tmp_path / "out")]  # fmt: skip
    assert run("archive", "create", *given).exit_code == 0
    made = tmp_path / "out" / name
    if form == "no-archive":
        shown = json.loads((made / "MAR-INF" / "MANIFEST.json").read_text())["model"]
        assert shown["requirementsFile"] == "requirements.txt"
        assert (made / "a.txt").is_file()
    else:
        shown = json.loads(run("archive", "inspect", str(made), "--json").stdout)
        assert shown["manifest"]["config_file"] == "model.yaml"
        assert shown["entries"] == 8  # seven files and the manifest
        assert shown["notes"] == []
    again = run("archive", "create", *given)
    assert (again.exit_code, "exists" in again.stderr) == (1, True)
    assert run("archive", "create", *given, "-f").exit_code == 0


def test_a_stored_archive_is_not_compressed(tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text("#" * 100_000)
    sizes = {}
    for form in ("default", "zip-store"):
        given = ["--model-name", form, "--handler", str(tmp_path / "h.py"), "--archive-format", form]
        assert run("archive", "create", *given, "--export-path", str(tmp_path)).exit_code == 0
        sizes[form] = (tmp_path / f"{form}.mar").stat().st_size
    assert sizes["default"] < 10_000 < 100_000 < sizes["zip-store"]


def test_a_folder_that_is_no_models_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "h.py").touch()
    precious = tmp_path / "m" / "precious"
    precious.parent.mkdir()
    precious.touch()
    given = ["--model-name", "m", "--handler", str(tmp_path / "h.py"), "--export-path", str(tmp_path), "-f"]
    assert run("archive", "create", *given, "--archive-format", "no-archive").exit_code == 1
    assert run("archive", "create", *given, str(tmp_path / "m")).exit_code == 1
    assert precious.exists()


def test_an_unknown_format_and_a_missing_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "h.py").touch()
    given = ["archive", "create", "--model-name", "m", "--handler", str(tmp_path / "h.py")]
    assert "is not one of default, zip-store" in run(*given, "--archive-format", "rar").stderr
    assert "no file" in run(*given, "--extra-files", f"{tmp_path}/missing*").stderr


def test_a_broken_archive_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(os.urandom(100))
    for path in (broken, tmp_path / "missing.mar"):
        result = run("archive", "inspect", str(path))
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert "torchrelay: " in result.stderr


def test_a_workflows_archive_is_made_with_its_archivers_options_and_inspected(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("models: {m: {url: m.mar}}\ndag: {m: [f]}\n")
    (tmp_path / "code.py").write_text("")
    given = ["--workflow-name", "w", "--spec-file", str(tmp_path / "spec.yaml"),
             "--export-path", str(tmp_path)]  # fmt: skip
    refused = run("archive", "workflow", *given)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "The step 'f' is not defined" in refused.stderr
    assert run("archive", "workflow", *given, "--handler", str(tmp_path / "code.py")).exit_code == 0
    made = str(tmp_path / "w.war")
    shown = run("archive", "inspect", made).output
    assert "m.mar; then f" in shown
    assert json.loads(run("archive", "inspect", made, "--json").stdout)["handler"] == "code.py"
    assert run("archive", "workflow", *given).exit_code == 1
