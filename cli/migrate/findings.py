"""What is found in a file of a TorchServe installation, and what follows for the whole. Pure."""

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

#: From the least to the worst: runs as it is; has no effect here; runs, but otherwise; doesn't run.
Level = Literal["same", "ignored", "differs", "fails"]
LEVELS: tuple[Level, ...] = get_args(Level)
#: Of one file; a script that says the same a thousand times says nothing new.
FINDINGS_LIMIT = 200


#: The kind of a file in which nothing of TorchServe's was found.
UNKNOWN_KIND = "other"
#: Said of whatever registers a workflow, and what there is to do then.
WORKFLOWS_ARE_OFF = "workflows are registered only where that is switched on"
SWITCH_WORKFLOWS_ON = "enable_workflow_api=true in config.properties, or --enable-workflows"


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was found, where, and what to do about it."""

    level: Level
    what: str
    #: What there is to do; "": nothing.
    advice: str = ""
    line: int = 0
    #: The file inside of an archive.
    inside: str = ""


class FileReport(msgspec.Struct, frozen=True):
    """All that was found in one file."""

    path: str
    #: What it was taken for.
    kind: str
    verdict: Level
    findings: tuple[Finding, ...]


class CheckReport(msgspec.Struct, frozen=True):
    """All files that were looked at, and how many of TorchServe's there are of each verdict."""

    files: tuple[FileReport, ...]
    summary: dict[Level, int]


def file_report(path: str, kind: str, found: Sequence[Finding]) -> FileReport:
    """Put together what was found in a file: the worst first where there is too much, each thing once."""
    unique = list(dict.fromkeys(found))
    if len(unique) > FINDINGS_LIMIT:
        unique = sorted(unique, key=lambda one: -LEVELS.index(one.level))
        rest = len(unique) - FINDINGS_LIMIT
        unique = [*unique[:FINDINGS_LIMIT], Finding("same", f"{rest} more of these are left out")]
    ordered = sorted(unique, key=lambda one: (one.inside, one.line))
    return FileReport(path, kind, worst(unique), tuple(ordered))


def worst(found: Sequence[Finding]) -> Level:
    """Return the worst level; a file in which nothing was found runs as it is."""
    # What is ignored needs nobody's attention: TorchServe's clients and scripts work without it.
    return max((one.level for one in found), key=LEVELS.index, default="same")


def check_report(files: Sequence[FileReport]) -> CheckReport:
    """Count the verdicts."""
    judged = [file.verdict for file in files if file.kind != UNKNOWN_KIND]
    counts = {level: judged.count(level) for level in LEVELS}
    return CheckReport(tuple(files), counts)
