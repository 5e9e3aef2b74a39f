"""Writes our log records as TorchServe writes its own, for scripts and tests that read its console.

A line is `<local time> [LEVEL] <thread> <logger> - <message>`. An event for which TorchServe has a text is
written with that text, including its mistakes; all others are written as in our own logs, behind the logger's
name.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from torchrelay.shared import clock
from torchrelay.shared.logs import logs
from torchrelay.shared.logs.log_file import LogFileHandler
from torchrelay.shared.logs.log_thread import STDOUT, ConsoleHandler
from torchrelay.shared.settings import DEFAULT_LOG_LIMITS, LogLimits
from torchrelay.shared.terminal import coloured_line

WORKER_THREAD = "org.pytorch.serve.wlm.WorkerThread"
WORKER_LIFE_CYCLE = "org.pytorch.serve.wlm.WorkerLifeCycle"
SERVER = "org.pytorch.serve.ModelServer"
MODEL_LOG = "MODEL_LOG"

_LEVELS = {"WARNING": "WARN", "CRITICAL": "ERROR"}
Facts = Mapping[str, object]
#: A line's level (None: the record's own), thread, logger and message.
Line = tuple[str | None, str, str, str]


def configure(
    process: str, *, level: str, log_file: Path | None, limits: LogLimits = DEFAULT_LOG_LIMITS
) -> None:
    """Send this process's records to stdout, as TorchServe does, and from INFO on to its ts_log.log."""
    handlers: list[logging.Handler] = [ConsoleHandler(STDOUT, level)]
    if log_file is not None:
        handlers.append(LogFileHandler(log_file, limits, logging.INFO))
        handlers[1].addFilter(_is_no_output)
    logs.install(TorchServeFormatter(process), *handlers)


class TorchServeFormatter(logs.TextFormatter):
    """Formats a record as one or several lines of TorchServe's; `process` is written as the thread."""

    def _lines(self, record: logging.LogRecord) -> list[str]:
        event = record.getMessage()
        write = _WRITERS.get(event)
        lines = [
            line
            for facts in logs.each(record)
            for line in (write(_in_one_line(facts)) if write else [self._other(record, event, facts)])
        ]
        time = clock.local_iso(int(record.created * 1000))
        own_level = _LEVELS.get(record.levelname, record.levelname)
        return [
            f"{time} [{level or own_level:<5}] {thread} {logger} - {message}"
            for level, thread, logger, message in lines
        ]

    def _other(self, record: logging.LogRecord, event: str, facts: Facts) -> Line:
        name = record.name if record.name != "root" else ""
        logger = name if name.startswith("torchrelay.") else f"torchrelay.{name}".rstrip(".")
        return None, self._process, logger, logs.text_of(event, facts)


def _is_no_output(record: logging.LogRecord) -> bool:
    """Keep the output of workers out of ts_log.log: as in TorchServe it has a file of its own."""
    return record.getMessage() != "worker.output"


def _in_one_line(facts: Facts) -> Facts:
    """Escape control characters in facts; output of handlers keeps its colours, as in TorchServe."""
    return {key: coloured_line(value) if isinstance(value, str) else value for key, value in facts.items()}


def _thread(facts: Facts) -> str:
    return f"W-{facts.get('worker')}-{facts.get('model')}_{facts.get('version')}"


def _output(facts: Facts) -> list[Line]:
    stream = facts.get("stream", "stdout")
    level = "WARN" if stream == "stderr" else "INFO"
    return [(level, f"{_thread(facts)}-{stream}", MODEL_LOG, str(facts.get("line", "")))]


def _ready(facts: Facts) -> list[Line]:
    thread = _thread(facts)
    lines: list[Line] = [
        ("DEBUG", thread, WORKER_THREAD, f"{thread} State change WORKER_STARTED -> WORKER_MODEL_LOADED")
    ]
    if facts.get("failures"):
        lines.append(("INFO", thread, WORKER_THREAD, "Auto recovery succeeded, reset recoveryStartTS"))
    return lines


def _stuck(facts: Facts) -> list[Line]:
    thread = _thread(facts)
    lines: list[Line] = []
    if facts.get("was_ready"):
        text = f"Number or consecutive unsuccessful inference {facts.get('failures', 1)}"
        lines.append(("ERROR", thread, WORKER_THREAD, text))
    silent = (
        "Backend worker error\norg.pytorch.serve.wlm.WorkerInitializationException:"
        f" Backend worker did not respond in given time ({facts.get('reason')})"
    )
    return [*lines, ("ERROR", thread, WORKER_THREAD, silent), *_recovery(facts)]


def _failed(facts: Facts) -> list[Line]:
    text, reason = "Backend worker process died.", str(facts.get("reason"))
    # The last line of an exception is on the console with its traceback; scripts that count tracebacks by
    # that line must not find it twice.
    if reason not in str(facts.get("output")):
        text = f"{text} Reason: {reason}"
    return [("ERROR", _thread(facts), WORKER_THREAD, text), *_recovery(facts)]


def _gone(facts: Facts) -> list[Line]:
    """Write no reason: a failure has been logged before, and a worker that was stopped has none."""
    thread = _thread(facts)
    return [("DEBUG", thread, WORKER_THREAD, f"{thread} State change -> WORKER_STOPPED")]


def _exited(facts: Facts) -> list[Line]:
    threads = [f"{_thread(facts)}-{stream}" for stream in ("stderr", "stdout")]
    return [("INFO", thread, WORKER_LIFE_CYCLE, f"Stopped Scanner - {thread}") for thread in threads]


def _recovery(facts: Facts) -> list[Line]:
    """Return what TorchServe writes between a worker's end and its next start."""
    thread, worker = _thread(facts), facts.get("worker")
    state = "WORKER_MODEL_LOADED" if facts.get("was_ready") else "WORKER_STARTED"
    lines: list[Line] = [("INFO", thread, WORKER_THREAD, f"{worker} Worker disconnected. {state}")]
    failures = facts.get("failures")
    if failures == 1:
        lines.append(("INFO", thread, WORKER_THREAD, f"Auto recovery start timestamp: {clock.wall_ms()}"))
    elif failures:
        lines.append(("WARN", thread, WORKER_THREAD, "Auto recovery failed again"))
    delay_s = facts.get("retry_in_s")
    if delay_s is not None:
        lines.append(("INFO", thread, WORKER_THREAD, f"Retry worker: {worker} in {delay_s} seconds."))
    return lines


def _registered(facts: Facts) -> list[Line]:
    text = f"Model {facts.get('model')} loaded. (version {facts.get('version')})"
    return [("INFO", "main", "org.pytorch.serve.wlm.ModelManager", text)]


def _not_loaded(facts: Facts) -> list[Line]:
    return [("WARN", "main", SERVER, f"Failed to load model: {facts.get('url')}: {facts.get('reason')}")]


_WRITERS: dict[str, Callable[[Facts], list[Line]]] = {
    "worker.output": _output,
    "worker.ready": _ready,
    "worker.stuck": _stuck,
    "worker.late": _stuck,
    "worker.failed": _failed,
    "worker.gone": _gone,
    "worker.exited": _exited,
    "model.registered": _registered,
    "model.not_loaded": _not_loaded,
}
