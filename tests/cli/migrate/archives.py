"""Makes archives for tests, and judges them as the command does."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from torchrelay.cli.migrate import check_archive
from torchrelay.cli.migrate.findings import Finding
from torchrelay.cli.migrate.surroundings import Surroundings
from torchrelay.shared.archives import archive_survey, model_archive

_NOTHING_KNOWN = Surroundings()
HANDLER = "def handle(data, context):\n    return data\n"


def write(path: Path, files: Mapping[str, str | bytes], /, runtime: str = "python", **model: str) -> Path:
    manifest = {"runtime": runtime, "model": {"modelName": "m", "handler": "h.py", **model}}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(model_archive.MANIFEST_NAME, json.dumps(manifest))
        for name, content in files.items():
            file.writestr(name, content)
    return path


def write_workflow(path: Path, functions: str | None) -> Path:
    """Write a workflow of a model `m` and a function `f`."""
    named = {"workflowName": "w", "specFile": "s.yaml", "handler": "h.py"}
    manifest = {"createdOn": "x", "archiverVersion": "1", "workflow": named}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
        file.writestr("s.yaml", "models: {m: {url: m.mar}}\ndag: {m: [f]}")
        if functions is not None:
            file.writestr("h.py", functions)
    return path


def judged(
    folder: Path, files: Mapping[str, str | bytes], around: Surroundings = _NOTHING_KNOWN, /, **model: str
) -> list[Finding]:
    found = archive_survey.survey(write(folder / "m.mar", files, **model))
    return check_archive.judge(found, "m", around)


def worse(found: list[Finding]) -> list[tuple[str, str, int]]:
    """Return what doesn't run as it is: level, file and line."""
    return [(one.level, one.inside, one.line) for one in found if one.level != "same"]
