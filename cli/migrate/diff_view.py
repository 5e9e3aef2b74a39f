"""Lays out what `torchrelay migrate diff` has found, for people. Pure."""

import textwrap
from collections.abc import Iterator

from torchrelay.cli.migrate.answer_differences import Difference
from torchrelay.cli.migrate.side_by_side import DiffReport, Latencies

COLUMNS = ("REQUEST", "SENT", "DIFFER", "OLD MS", "NEW MS")
WIDTHS = {"REQUEST": 34}
REASONS_LIMIT = 10


def rows(report: DiffReport) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield a row for each method and path."""
    for one in report.requests:
        yield one.request, str(one.sent), str(one.differing), _times(one.old_ms), _times(one.new_ms)


def lines(report: DiffReport, width: int) -> Iterator[tuple[str, str]]:
    """Yield what is below the table, with styles: each difference, what was left out, and the sum."""
    if report.sent:
        yield "ms: half, 95% and 99% of the answers were there by then", "dim"
    for label in report.requests:
        for example in label.examples:
            yield "", ""
            times = f" ({example.times} times)" if example.times > 1 else ""
            yield from _wrapped(f"{label.request.partition(' ')[0]} {example.path}{times}", "bold", width, 0)
            if example.source:
                yield from _wrapped(f"from {example.source}", "dim", width, 2)
            for one in example.differences:
                yield from _difference(one, width)
        more = label.differing - sum(example.times for example in label.examples)
        if more:
            yield f"and {more} more {label.request} that differ in other ways", ""
    if report.reasons:
        yield "", ""
    for reason in report.reasons[:REASONS_LIMIT]:
        yield from _wrapped(f"not sent: {reason.source}: {reason.why}", "yellow", width, 0)
    yield "", ""
    ending = "; interrupted" if report.was_interrupted else ""
    unsent = f", {report.left_out} not sent" if report.left_out else ""
    style = "red" if report.differing else ""
    plural = "request" if report.sent == 1 else "requests"
    yield f"{report.sent} {plural}, {report.differing} answered otherwise{unsent}{ending}", style


def _difference(one: Difference, width: int) -> Iterator[tuple[str, str]]:
    place = f"{one.part} {one.where}".rstrip()
    whole = f"{place}: old {one.old}, new {one.new}"
    if len(whole) + 2 <= width:
        yield f"  {whole}", "red"
        return
    yield from _wrapped(f"{place}:", "red", width, 2)
    yield from _wrapped(f"old {one.old}", "red", width, 4)
    yield from _wrapped(f"new {one.new}", "red", width, 4)


def _wrapped(text: str, style: str, width: int, indent: int) -> Iterator[tuple[str, str]]:
    space = " " * indent
    for line in textwrap.wrap(text, width, initial_indent=space, subsequent_indent=space + "  "):
        yield line, style


def _times(times: Latencies) -> str:
    return "/".join(_short(value) for value in (times.p50, times.p95, times.p99))


def _short(value: float) -> str:
    """Write milliseconds in few characters."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
