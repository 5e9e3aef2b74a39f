"""TorchServe's ts_metrics.log and model_metrics.log, written by a thread of their own.

The loop hands lines over and goes on; where the disk doesn't keep up they are dropped.
"""

import logging
import queue
import threading
from pathlib import Path

from torchrelay.broker.core.torchserve_metrics import Line
from torchrelay.shared import clock, private_files
from torchrelay.shared.logs.log_file import LogFile
from torchrelay.shared.settings import DEFAULT_LOG_LIMITS, LogLimits
from torchrelay.shared.terminal import one_line

logger = logging.getLogger(__name__)

#: Turns of the broker's loop whose lines may wait.
WAITING_LIMIT = 10_000
CLOSE_LIMIT_S = 5.0


class MetricsLog:
    """The two files in `folder`. Raises OSError if they can't be opened."""

    def __init__(self, folder: Path, limits: LogLimits = DEFAULT_LOG_LIMITS) -> None:
        private_files.make_folder(folder)
        names = {False: "ts_metrics.log", True: "model_metrics.log"}
        self._files = {is_model: LogFile(folder / name, limits) for is_model, name in names.items()}
        for file in self._files.values():
            file.append(b"")  # it is there from the start
        self._has_failed = False
        self._waiting: queue.Queue[tuple[Line, ...] | None] = queue.Queue(WAITING_LIMIT)
        self._is_behind = False
        self._thread = threading.Thread(target=self._write_all, name="metrics-log", daemon=True)
        self._thread.start()

    def write(self, lines: tuple[Line, ...]) -> bool:
        """Have lines written soon; never blocks. False where they are dropped, for the caller to count."""
        try:
            self._waiting.put_nowait(lines)
        except queue.Full:
            if not self._is_behind:
                logger.warning("metrics.log_behind", extra={"waiting": WAITING_LIMIT})
            self._is_behind = True
            return False
        return True

    def close(self) -> None:
        """Write what waits, for a moment at most, and close the files."""
        try:
            self._waiting.put(None, timeout=CLOSE_LIMIT_S)
        except queue.Full:
            logger.warning("metrics.log_lost", extra={"waiting": self._waiting.qsize()})
        self._thread.join(CLOSE_LIMIT_S)
        for file in self._files.values():
            file.close()

    def _write_all(self) -> None:
        while (lines := self._waiting.get()) is not None:
            for is_model, file in self._files.items():
                text = "\n".join(formatted(line) for line in lines if line.is_model == is_model)
                if text:
                    self._append(file, f"{text}\n".encode())

    def _append(self, file: LogFile, data: bytes) -> None:
        try:
            file.append(data)
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                logger.error("metrics.log_failed", extra={"file": str(file.path), "reason": str(error)})
            self._has_failed = True


def formatted(line: Line) -> str:
    """Write a line as TorchServe does; a handler's line names its requests."""
    labels = ",".join(f"{name}:{value}" for name, value in line.labels)
    requests = f"requestID:{','.join(line.request_ids) or 'null'}," if line.is_model else ""
    text = (
        f"{clock.local_iso(clock.wall_ms())} - {line.name}.{line.unit}:{line.value!r}|#{labels}"
        f"|#hostname:{line.hostname},{requests}timestamp:{line.at_ms // 1000}"
    )
    return one_line(text.replace("\n", " ").replace("\r", " "))
