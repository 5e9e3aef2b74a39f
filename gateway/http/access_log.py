"""The access log: a line for each response, in TorchServe's words, where one is asked for."""

import asyncio
import logging
from collections.abc import Awaitable
from pathlib import Path

from torchrelay.gateway.http.exchange import Event, Scope, Send
from torchrelay.shared import clock
from torchrelay.shared.logs import logs
from torchrelay.shared.logs.log_file import LogFileHandler
from torchrelay.shared.logs.log_thread import BackgroundHandler
from torchrelay.shared.settings import DEFAULT_LOG_LIMITS, LogLimits
from torchrelay.shared.terminal import one_line

#: Lines are written together, and by a thread, so that no request waits for the disk.
FLUSH_S = 0.2
#: Lines that may wait for it: several seconds of as many requests as a process can answer.
WAITING_LINES = 100_000


class AccessLog:
    """Writes to one file, which other processes write to as well."""

    def __init__(self, path: str, limits: LogLimits = DEFAULT_LOG_LIMITS) -> None:
        self._file = BackgroundHandler(LogFileHandler(Path(path), limits), WAITING_LINES)
        self._file.setFormatter(_Formatter())
        #: Not written yet.
        self._lines: list[str] = []

    def watch(self, scope: Scope, send: Send) -> Send:
        """Return a `send` that notes the response when its end has been sent."""
        started, status = clock.monotonic(), 0

        def noting(message: Event) -> Awaitable[None]:
            nonlocal status
            if is_start := message["type"] == "http.response.start":
                status = message["status"]
            if "body" in message if is_start else not message.get("more_body"):
                self._note(scope, status, clock.monotonic() - started)
            return send(message)

        return noting

    def flush(self) -> None:
        """Have written what has been noted. A log that can't be written keeps nobody from being served."""
        lines, self._lines = self._lines, []
        if lines:
            self._file.emit(logging.makeLogRecord({"lines": lines}))

    def close(self) -> None:
        """Write the lines that are queued, and close the log."""
        self.flush()
        self._file.close()

    def note(self, host: str, port: int, request: str, status: int, took_s: float) -> None:
        """Add the line of an answered request."""
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
        time = clock.local_iso(clock.wall_ms())
        self._lines.append(f'{time} - /{host}:{port} "{one_line(request)}" {status} {round(took_s * 1000)}')

    def _note(self, scope: Scope, status: int, took_s: float) -> None:
        host, port = scope.get("client") or ("", 0)
        target = scope.get("raw_path") or scope["path"].encode()
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        request = f"{scope['method']} {target.decode('latin-1')} HTTP/{scope['http_version']}"
        self.note(host, port, request, status, took_s)


class _Formatter(logging.Formatter):
    """Writes lines as they are, and how many could not be written."""

    def format(self, record: logging.LogRecord) -> str:
        lines: list[str] | None = vars(record).get("lines")
        return logs.text_of(record.getMessage(), logs.facts(record)) if lines is None else "\n".join(lines)
