"""Lays out what `torchrelay migrate check` has found, for people. Pure."""

import textwrap
from collections.abc import Iterator
from pathlib import PurePath
from typing import Literal

from torchrelay.cli.migrate.findings import UNKNOWN_KIND, CheckReport, FileReport, Finding, Level

VERDICTS: dict[Level, str] = {
    "same": "runs unchanged",
    "ignored": "runs; some of it has no effect",
    "differs": "runs, with differences",
    "fails": "will not run",
}
_STYLES: dict[Level, str] = {"same": "", "ignored": "", "differs": "yellow", "fails": "red"}
_INDENT = 10
#: Lines that run as they are, and that are named.
_LINES_LIMIT = 12

Line = tuple[str, str]


def lines(report: CheckReport, width: int) -> Iterator[Line]:
    """Yield lines with their styles: each file with what was found, and the sum."""
    for file in report.files:
        if file.kind == UNKNOWN_KIND:
            yield f"{file.path}: nothing of TorchServe's was found in it", ""
            yield "", ""
            continue
        yield f"{file.path} ({file.kind}): {VERDICTS[file.verdict]}", f"bold {_STYLES[file.verdict]}".strip()
        yield from _findings(file, width)
        yield "", ""
    counts = [f"{count} {_PLURALS[level]}" for level, count in report.summary.items() if count]
    judged = sum(report.summary.values())
    total = f"{judged} file{'' if judged == 1 else 's'}"
    yield f"{total}: {', '.join(counts)}" if counts else "Nothing of TorchServe's was found.", ""


_PLURALS: dict[Level, str] = {
    "same": "unchanged",
    "ignored": "with parts that have no effect",
    "differs": "with differences",
    "fails": "will not run",
}


def _findings(file: FileReport, width: int) -> Iterator[Line]:
    alike = [one for one in file.findings if one.level == "same" and one.line and not one.advice]
    if alike:
        numbers = list(dict.fromkeys(one.line for one in alike))
        shown = ", ".join(str(number) for number in numbers[:_LINES_LIMIT])
        more = f" and {len(numbers) - _LINES_LIMIT} more" if len(numbers) > _LINES_LIMIT else ""
        plural = "line" if len(numbers) == 1 else "lines"
        yield from _wrapped("same", f"as it is: {plural} {shown}{more}", width)
    for one in file.findings:
        if one not in alike:
            yield from _wrapped(one.level, f"{_place(file, one)}{one.what}", width)
            if one.advice:
                yield from _wrapped("", f"-> {one.advice}", width)


def _place(file: FileReport, one: Finding) -> str:
    name = one.inside or (PurePath(file.path).name if one.line else "")
    return f"{name}:{one.line}: " if one.line else f"{name}: " if name else ""


def _wrapped(level: Level | Literal[""], text: str, width: int) -> Iterator[Line]:
    filled = textwrap.wrap(
        " ".join(text.split()), max(width - _INDENT, 20), break_on_hyphens=False, break_long_words=False
    )
    style = _STYLES[level] if level else ""
    for number, part in enumerate(filled):
        head = f"  {level}" if number == 0 else ""
        yield f"{head:<{_INDENT}}{part}", style
