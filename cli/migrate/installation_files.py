"""Finds out what the files of a TorchServe installation are, by their content, and has each judged.

Nothing of an archive is imported, run or unpacked, and it is read by an `ArchiveReader`'s processes.
"""

import codecs
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from torchrelay.cli.migrate import (
    check_archive,
    check_calls,
    check_commands,
    check_config,
    check_manifest,
    check_workflow,
)
from torchrelay.cli.migrate.findings import (
    UNKNOWN_KIND,
    CheckReport,
    FileReport,
    Finding,
    check_report,
    file_report,
)
from torchrelay.cli.migrate.surroundings import Surroundings
from torchrelay.shared import errors
from torchrelay.shared.archives.model_archive import MANIFEST_NAME
from torchrelay.shared.archives.reader import ArchiveReader
from torchrelay.shared.torchserve import config_keys
from torchrelay.shared.torchserve.config_keys import ConfigValues

#: Scripts and manifests are far smaller.
TEXT_LIMIT_BYTES = 1 << 20
#: Of one folder that is named.
FILES_LIMIT = 10_000
DEPTH_LIMIT = 32
_ARCHIVES = (".mar", ".war", ".tar.gz", ".tgz", ".model", ".zip")
_PROPERTIES = (".properties", ".cfg", ".conf")
_YAML = (".yaml", ".yml")
_PROGRAMS = (".py", ".js", ".ts", ".java", ".go", ".json", ".ipynb")
_TEXTS = (".md", ".rst", ".txt")
#: Folders of tools, whose files are nobody's own.
_PASSED_OVER = frozenset({".git", "__pycache__", "node_modules", ".venv", "venv"})
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def check(
    paths: Sequence[Path], has_package: Callable[[str], bool], watch: Callable[[str], None]
) -> CheckReport:
    """Judge files, and those of folders; `watch` is told of each before it is looked at.

    Raises OSError for a path that isn't there.
    """
    found = list(dict.fromkeys(item for path in paths for item in _listed(path)))
    around = Surroundings(config=_config(found), has_package=has_package)
    reports: list[FileReport] = []
    with closing(ArchiveReader()) as reader:
        for path, is_named in found:
            watch(str(path))
            report = _judge(path, is_named, reader, around)
            # In a folder there is much that isn't TorchServe's; who names a file wants to hear of it.
            if report is not None:
                reports.append(report)
            elif is_named:
                nothing = Finding("ignored", "nothing of TorchServe's was found in it")
                reports.append(file_report(str(path), UNKNOWN_KIND, [nothing]))
    return check_report(reports)


def _listed(path: Path) -> Iterator[tuple[Path, bool]]:
    """Yield a path, or the files and models of a folder, and whether it was named itself."""
    if not path.is_dir():
        path.stat()
        yield path, True
    elif _is_model(path):
        yield path, True
    else:
        yield from ((inner, False) for inner in _walk(path))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield what lies below a folder, links to folders in it included, once each."""
    seen: set[str] = set()
    waiting = [(folder, 0)]
    count = 0
    while waiting and count < FILES_LIMIT:
        place, depth = waiting.pop(0)
        real = os.path.realpath(place)
        if real in seen or depth > DEPTH_LIMIT:
            continue
        seen.add(real)
        try:
            inside = sorted(place.iterdir())
        except OSError:
            yield place  # which is then said to be unreadable
            continue
        for inner in inside:
            if os.path.isdir(inner) and inner.name not in _PASSED_OVER:
                if _is_model(inner):
                    yield inner
                else:
                    waiting.append((inner, depth + 1))
            elif os.path.isfile(inner) or (inner.is_symlink() and inner.name.endswith(_ARCHIVES)):
                count += 1  # an archive that a link leads to may be out of reach, which is said, too
                yield inner


def _is_model(folder: Path) -> bool:
    """Tell whether a folder is an unpacked archive; one with nothing but a folder stands for that one."""
    try:
        children = list(folder.iterdir())
    except OSError:
        return False
    inner = children[0] if len(children) == 1 and os.path.isdir(children[0]) else folder
    return os.path.isfile(inner / MANIFEST_NAME)


def _config(found: Sequence[tuple[Path, bool]]) -> ConfigValues:
    """Return what the configurations among these files say, the last one where they differ."""
    said = ConfigValues()
    for path, _ in found:
        text = _read(path) if path.name.endswith(_PROPERTIES) else None
        if text is not None and _is_configuration(text):
            values = check_config.values_of(text.encode())
            given = {key: value for key in config_keys.KEYS if (value := getattr(values, key)) is not None}
            said = msgspec.structs.replace(said, **given)
    return said


def _judge(path: Path, is_named: bool, reader: ArchiveReader, around: Surroundings) -> FileReport | None:
    """Judge one file or folder; None where it is none of TorchServe's."""
    # Weights are zips as well, so that only who names a file says by that what it is.
    if os.path.isdir(path) or path.name.endswith(_ARCHIVES) or (is_named and _has_magic(path)):
        return _judge_archive(path, reader, around)
    text = _read(path)
    if text is None:
        return None
    if (path.name.endswith(_PROPERTIES) or path.suffix == "") and _is_configuration(text):
        return file_report(str(path), "configuration", check_config.judge(text.encode()))
    if path.name.endswith(_YAML):
        try:
            return _unless_empty(path, "manifest", check_manifest.judge(text))
        except ValueError:
            pass  # a template of another kind: what is in its lines
    if path.name.endswith(_PROGRAMS + _TEXTS):
        kind = "text" if path.name.endswith(_TEXTS) else "program"
        return _unless_empty(path, kind, list(check_calls.judge_text(text)))
    return _unless_empty(path, "script", list(check_commands.judge_script(text)))


def _unless_empty(path: Path, kind: str, found: list[Finding]) -> FileReport | None:
    return file_report(str(path), kind, found) if found else None


def _judge_archive(path: Path, reader: ArchiveReader, around: Surroundings) -> FileReport | None:
    kind = "folder" if os.path.isdir(path) else "archive"
    if path.suffix == ".war":
        return file_report(str(path), "workflow", _judge_workflow(path, reader, around))
    try:
        survey = reader.survey(path)
    except (errors.RelayError, OSError) as error:
        return file_report(str(path), kind, [_unregistrable(error)])
    name = re.sub(r"\.(mar|model|zip|tgz|tar\.gz)$", "", path.name)
    if survey.info.manifest.raw is None and path.name.endswith((".zip", ".tgz", ".tar.gz", ".model")):
        return None
    return file_report(str(path), kind, check_archive.judge(survey, name, around))


def _judge_workflow(path: Path, reader: ArchiveReader, around: Surroundings) -> list[Finding]:
    try:
        return check_workflow.judge(reader.inspect_workflow(path), reader.survey(path), around)
    except (errors.RelayError, OSError) as error:
        return [_unregistrable(error)]


def _unregistrable(error: errors.RelayError | OSError) -> Finding:
    reason = error.message if isinstance(error, errors.RelayError) else str(error)
    details = error.details if isinstance(error, errors.RelayError) else ""
    return Finding("fails", f"can't be registered: {reason}" + (f" ({details})" if details else ""))


def _has_magic(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x1f\x8b")


def _is_configuration(text: str) -> bool:
    """Tell a config.properties from other files with equals signs: by a key of TorchServe's."""
    keys = re.findall(r"^[ \t]*([a-z_]+)[ \t]*[=:]", text, re.MULTILINE)
    return any(key in config_keys.KEYS or key in config_keys.REASONS for key in keys)


def _read(path: Path) -> str | None:
    """Read a text in whatever encoding; None for what is none, or is too large for one of these."""
    try:
        if not path.is_file() or path.stat().st_size > TEXT_LIMIT_BYTES:
            return None
        with path.open("rb") as file:
            content = file.read(TEXT_LIMIT_BYTES + 1)
    except OSError:
        return None
    for mark, encoding in _BOMS.items():
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    if b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
