"""The access log: a line for each response, in TorchServe's words, where one is asked for."""

import asyncio
import logging
from collections.abc import Awaitable
from pathlib import Path

from torchrelay.gateway.exchange import Event, Scope, Send
from torchrelay.shared import clock
from torchrelay.shared.log_file import LogFile
from torchrelay.shared.settings import DEFAULT_LOG_LIMITS, LogLimits

logger = logging.getLogger(__name__)

#: Lines are written together, so that a request doesn't wait for the disk.
FLUSH_S = 0.2


class AccessLog:
    """Writes to one file, which other processes write to as well."""

    def __init__(self, path: str, limits: LogLimits = DEFAULT_LOG_LIMITS) -> None:
        self._file = LogFile(Path(path), limits)
        #: Not written yet.
        self._lines: list[str] = []

    def watch(self, scope: Scope, send: Send) -> Send:
        """Return a `send` that notes the response when its end has been sent."""
        started, status = clock.monotonic(), 0

        def noting(message: Event) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body"):
                self._note(scope, status, clock.monotonic() - started)
            return send(message)

        return noting

    def flush(self) -> None:
        """Write what has been noted. A log that can't be written doesn't keep anybody from being served."""
        lines, self._lines = self._lines, []
        try:
            self._file.append("".join(lines).encode())
        except OSError as error:
            logger.warning("gateway.access_log_failed", extra={"lost": len(lines), "reason": str(error)})

    def _note(self, scope: Scope, status: int, took_s: float) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
        host, port = scope.get("client") or ("", 0)
        target = scope.get("raw_path") or scope["path"].encode()
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        request = f"{scope['method']} {target.decode('latin-1')} HTTP/{scope['http_version']}"
        time = clock.local_iso(clock.wall_ms())
        self._lines.append(f'{time} - /{host}:{port} "{request}" {status} {round(took_s * 1000)}\n')
