"""Archives of workflows: what they say of themselves. A `.war` is a zip, made by torch-workflow-archiver.

It has a manifest, a spec, and a handler whose functions are steps: workers unpack it as they do a model's
archive. It is not trusted, see `archive_entries`.
"""

import gzip
import json
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import msgspec

from torchrelay.shared import clock
from torchrelay.shared.archives import model_config, workflow_spec
from torchrelay.shared.archives.archive_entries import BROKEN, checked_entries
from torchrelay.shared.archives.model_archive import (
    ARCHIVE_NAME,
    MANIFEST_LIMIT_BYTES,
    TEXT_LIMIT_CHARS,
    ZIP_DATE,
    one_line,
    replacing,
    sources_of,
)
from torchrelay.shared.archives.workflow_spec import WorkflowSpec
from torchrelay.shared.errors import InvalidModel, InvalidWorkflow, StoreFailed
from torchrelay.shared.quoting import quoted

MANIFEST_NAME = "WAR-INF/MANIFEST.json"
#: Of torch-workflow-archiver.
ARCHIVER_VERSION = "0.2.15"


class WorkflowInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive says; `handler` is the file with the functions, "" where there is none."""

    name: str
    handler: str
    spec: WorkflowSpec


class _Manifest(msgspec.Struct, frozen=True):
    name: str
    spec_file: str
    handler: str


def inspect(path: Path) -> WorkflowInfo:
    """Read an archive's manifest and spec, and check every entry, without unpacking anything.

    Raises InvalidWorkflow or InvalidDag, and StoreFailed for a file that can't be read.
    """
    raw, names = _read(path, None)
    manifest = _manifest(raw)
    spec_name = str(PurePosixPath(manifest.spec_file))
    if spec_name not in names:
        raise InvalidWorkflow(f"The workflow's spec {quoted(manifest.spec_file)!r} is not in the archive.")
    content, _ = _read(path, spec_name)
    spec = workflow_spec.parse(content or b"")
    functions = [step.name for step in spec.steps if step.is_function]
    if functions and not manifest.handler:
        why = "it is not among the models, and no function either: the archive names no handler"
        raise InvalidWorkflow(f"The step {quoted(functions[0])!r} is not defined.", why)
    return WorkflowInfo(name=manifest.name, handler=manifest.handler, spec=spec)


def create(
    target: Path,
    *,
    workflow_name: str,
    spec_file: Path,
    handler: Path | None = None,
    extra_files: Sequence[Path] = (),
    force: bool = False,
) -> None:
    """Write an archive with its manifest; what is there already is replaced only when forced.

    Raises as `inspect` does, and InvalidModel for files that are missing.
    """
    if not ARCHIVE_NAME.fullmatch(workflow_name):
        raise InvalidModel(
            f"Workflow name {workflow_name!r} may have only letters, digits, '_', '-' and '.'."
        )
    sources = sources_of([spec_file, *([handler] if handler else []), *extra_files])
    workflow_spec.parse(spec_file.read_bytes())
    workflow = {"workflowName": workflow_name, "specFile": spec_file.name}
    manifest = {
        "createdOn": datetime.fromtimestamp(clock.wall_ms() / 1000, UTC).strftime("%d/%m/%Y %H:%M:%S"),
        "archiverVersion": ARCHIVER_VERSION,
        "workflow": workflow | ({"handler": handler.name} if handler else {}),
    }
    with replacing(target, force=force) as half:
        with zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo(MANIFEST_NAME, ZIP_DATE), json.dumps(manifest, indent=2))
            for name in sorted(sources):
                archive.write(sources[name], name)
        inspect(half)


def _read(path: Path, wanted: str | None) -> tuple[bytes | None, set[str]]:
    """Return a file's content, one byte above its limit at most, and all names; None for the manifest."""
    limit = MANIFEST_LIMIT_BYTES if wanted is None else model_config.SIZE_LIMIT_BYTES
    found: bytes | None = None
    names: set[str] = set()
    try:
        for entry in checked_entries(path):
            names.add(str(entry.path))
            if str(entry.path) == (wanted or MANIFEST_NAME) and entry.open is not None:
                with entry.open() as file:
                    found = file.read(limit + 1)
    except InvalidModel as error:
        raise InvalidWorkflow(error.message, error.details) from error
    except (*BROKEN, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise StoreFailed(f"Failed to read workflow: {path.name}", one_line(error)) from error
        why = f"no readable archive: {one_line(error)}"
        raise InvalidWorkflow("Workflow name is not defined.", why) from error  # as TorchServe says it
    return found, names


def _manifest(raw: bytes | None) -> _Manifest:
    """Read a manifest. Raises InvalidWorkflow, in TorchServe's words where it has any."""
    try:
        content = json.loads(raw or b"{}") if len(raw or b"") <= MANIFEST_LIMIT_BYTES else None
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object, or larger than any that is needed")
    except (ValueError, RecursionError) as error:
        raise InvalidWorkflow("Failed to parse signature.json.", one_line(error)) from error
    workflow = content.get("workflow")
    if not isinstance(workflow, dict):
        workflow = {}
    named = {key: workflow.get(key) for key in ("workflowName", "specFile", "handler")}
    for key, value in named.items():
        if value is not None and (not isinstance(value, str) or len(value) > TEXT_LIMIT_CHARS):
            raise InvalidWorkflow("Failed to parse signature.json.", f"{key} is no text, or a long one")
    for text, value in (
        ("Workflow name is not defined.", named["workflowName"]),
        ("Workflow archive version is not defined.", content.get("archiverVersion")),
        ("Workflow archive createdOn is not defined.", content.get("createdOn")),
        ("Workflow spec file is not defined.", named["specFile"]),
    ):
        if not value:
            raise InvalidWorkflow(text)
    return _Manifest(named["workflowName"] or "", named["specFile"] or "", named["handler"] or "")
