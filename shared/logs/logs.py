"""Logging of every process: configured once at start, one event name per call, facts as fields.

`logger.info("worker.joined", extra={"worker": 3})` becomes one line of text or one JSON object. Field
names may not be those of `logging.LogRecord` (`name`, `args`, ...): the standard library refuses them.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torchrelay.shared import clock
from torchrelay.shared.logs.log_file import LogFileHandler
from torchrelay.shared.logs.log_thread import STDERR, BackgroundHandler, ConsoleHandler
from torchrelay.shared.settings import DEFAULT_LOG_LIMITS, LogLimits
from torchrelay.shared.terminal import one_line, printable, printable_json

_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(
    process: str,
    *,
    level: str = "WARNING",
    log_format: Literal["text", "json"] = "text",
    log_file: Path | None = None,
    limits: LogLimits = DEFAULT_LOG_LIMITS,
) -> None:
    """Send this process's records to stderr from `level` on, and from INFO on to `log_file`."""
    console = ConsoleHandler(STDERR, level)
    formatter = JsonFormatter(process) if log_format == "json" else TextFormatter(process)
    file = [] if log_file is None else [LogFileHandler(log_file, limits, logging.INFO)]
    install(formatter, console, *file)


def install(formatter: logging.Formatter, *handlers: logging.Handler) -> None:
    """Replace the root logger's handlers by these, each of which writes in a thread of its own."""
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [BackgroundHandler(handler) for handler in handlers]
    root.setLevel(min(handler.level for handler in handlers))


def wait_for_room() -> None:
    """Wait until there is room in all logs that aren't stuck: for threads that log much."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, BackgroundHandler):
            handler.wait_for_room()


def facts(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields that were given as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS}


def each(record: logging.LogRecord) -> list[dict[str, object]]:
    """Return the facts of all lines that a record stands for: `lines` makes one for each, with its `line`.

    PERF: with a record for each line that a worker prints 8,000 a second were written, so 300,000.
    """
    found = facts(record)
    lines = found.get("lines")
    if not isinstance(lines, list):
        return [found]
    names = ["line" if name == "lines" else name for name in found]
    return [dict(zip(names, found.values(), strict=True)) | {"line": line} for line in lines]


def text_of(event: str, facts: Mapping[str, object]) -> str:
    """Write an event and its facts: `worker.lost worker=3 reason="no beat"`; facts of several lines below."""
    line = one_line(event)
    below = ""
    for key, value in facts.items():
        text = str(value)
        if "\n" in text:
            below += "".join(f"\n  {key}| {printable(part)}" for part in text.splitlines())
        else:
            line += f" {key}={_quoted(text)}"
    return line + below


class LogRateLimit:
    """Bounds how often an event that peers or clients cause is logged: one line for all in INTERVAL_S."""

    INTERVAL_S = 1.0

    def __init__(self) -> None:
        self._due_at = -math.inf
        self._count = 0

    def count(self, now: float) -> int:
        """Count one event; return how many there were since the last line if a line is due, else 0."""
        self._count += 1
        if now < self._due_at:
            return 0
        self._due_at = now + self.INTERVAL_S
        count, self._count = self._count, 0
        return count


class TextFormatter(logging.Formatter):
    """Writes `2026-01-31T12:00:00.000Z WARNING broker worker.lost worker=3 reason="no beat"`.

    A field of several lines (a process's last output) stands below, each line behind the field's name.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Write one line; facts of several lines and a traceback stand below it, and none looks like one."""
        traceback = self.formatException(record.exc_info).splitlines() if record.exc_info else []
        return "\n".join([*self._lines(record), *(f"  {printable(line)}" for line in traceback)])

    def _lines(self, record: logging.LogRecord) -> list[str]:
        start = f"{clock.iso(int(record.created * 1000))} {record.levelname} {self._process} "
        return [start + text_of(record.getMessage(), facts) for facts in each(record)]


class JsonFormatter(logging.Formatter):
    """Writes one JSON object per record."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Write one line; values that JSON doesn't know are written as text."""
        head: dict[str, object] = {
            "time": clock.iso(int(record.created * 1000)),
            "level": record.levelname,
            "process": self._process,
            "event": record.getMessage(),
        }
        tail = {"traceback": self.formatException(record.exc_info)} if record.exc_info else {}
        entries = [{**head, **facts, **tail} for facts in each(record)]
        return "\n".join(
            printable_json(json.dumps(entry, default=str, ensure_ascii=False)) for entry in entries
        )


def _quoted(text: str) -> str:
    """Write a value so that a line stays one line and a reader can tell where the value ends."""
    is_plain = text and text.isprintable() and not set(text) & set(' "=\\')
    return text if is_plain else printable(json.dumps(text, ensure_ascii=False))
