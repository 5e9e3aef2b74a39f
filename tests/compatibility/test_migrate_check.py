"""`torchrelay migrate check` over what PyPI's archiver makes: the golden store, and each of its options."""

import subprocess
import sys
from pathlib import Path

import pytest

from torchrelay.cli.migrate import installation_files, surroundings
from torchrelay.cli.migrate.findings import FileReport

pytestmark = pytest.mark.integration

#: Of the golden store, what doesn't register, or whose handler doesn't load.
BROKEN = {
    *(f"broken_{how}.mar" for how in (
        "bad_json", "bad_runtime", "empty", "manifest_empty", "manifest_list", "missing_handler",
        "no_handler", "no_manifest", "no_model", "not_zip", "parent_path", "truncated",
    )),
    "import_fails.mar",
    "two_classes.mar",
}  # fmt: skip
#: torch-model-archiver's formats, and what it calls a file of each.
FORMATS = {"default": "m.mar", "zip-store": "m.mar", "tgz": "m.tar.gz", "no-archive": "m"}


def check(*paths: Path, packages: bool = True) -> dict[str, FileReport]:
    report = installation_files.check(paths, lambda _: packages, lambda _: None)
    return {Path(file.path).name: file for file in report.files}


def test_of_the_golden_store_what_is_broken_is_found_and_nothing_else(store: Path) -> None:
    report = installation_files.check([store], surroundings.is_installed, lambda _: None)
    verdicts = {Path(file.path).name: file.verdict for file in report.files}
    assert {name for name, verdict in verdicts.items() if verdict == "fails"} == BROKEN
    assert {verdict for name, verdict in verdicts.items() if name not in BROKEN} == {"same"}
    assert set(verdicts) == {path.name for path in store.iterdir()}


def archive(folder: Path, *options: str) -> None:
    files = {
        "own.py": "import numpy\ndef handle(data, context):\n    return data\n",
        "net.py": "import torch\nclass Net(torch.nn.Module): pass\n",
        "weights.pt": "no pickle",
        "labels.json": "{}",
        "needs.txt": "numpy\nscipy==${VERSION}\n",
        "model-config.yaml": "minWorkers: 1\nmaxWorkers: 2\nbatchSize: many\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    archiver = Path(sys.executable).with_name("torch-model-archiver")
    given = ["--model-name", "m", "--export-path", str(folder / "out"), "--force", *options]
    (folder / "out").mkdir()
    subprocess.run([archiver, *given], check=True, cwd=folder, capture_output=True)


@pytest.mark.parametrize("form", FORMATS)
def test_every_option_of_the_archiver_is_read_in_every_format(tmp_path: Path, form: str) -> None:
    options = (
        "--version 2.0 --handler own.py --model-file net.py --serialized-file weights.pt"
        " --extra-files labels.json --requirements-file needs.txt --config-file model-config.yaml"
        f" --runtime python3 --archive-format {form}"
    )
    archive(tmp_path, *options.split())
    found = check(tmp_path / "out" / FORMATS[form])[FORMATS[form]]
    assert found.findings[0].what == "m 2.0, handler own.py"
    assert [(one.level, one.inside) for one in found.findings[1:]] == [
        ("ignored", "model-config.yaml"), ("same", "needs.txt"), ("differs", "needs.txt"),
    ]  # fmt: skip


def test_a_default_handler_is_judged_by_what_it_needs(tmp_path: Path) -> None:
    archive(tmp_path, "--version", "1.0", "--handler", "image_classifier")
    [found] = check(tmp_path / "out")["m.mar"].findings
    assert found.what == "m 1.0, handler image_classifier, which comes with the server"
    missing = check(tmp_path / "out", packages=False)["m.mar"].findings
    assert any("needs torchvision" in one.what for one in missing)


def test_a_handler_in_cpp_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "own.so").touch()
    archive(tmp_path, "--version", "1.0", "--handler", "own", "--runtime", "LSP")
    assert any("runtime LSP" in one.what for one in check(tmp_path / "out")["m.mar"].findings)
