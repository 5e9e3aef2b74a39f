"""Log handlers that never block the caller: a thread writes, and lines that it can't write are counted.

A process must go on beating while its console is stopped, or its disk hangs or is full. QueueHandler and
QueueListener of the standard library can't replace this:

- they bound a queue by records, while a record here may stand for thousands of printed lines, and print an
  error for each record above the bound where the number of dropped lines is wanted;
- QueueListener.stop waits for its thread without a limit, so that a stopped console would keep a process from
  ending, and nothing there tells a slow writer from a stuck one;
- their queue and thread don't survive a fork, where this handler starts anew.
"""

import contextlib
import logging
import os
import select
import sys
import threading
from collections import deque

from torchrelay.shared import clock

logger = logging.getLogger(__name__)

#: Lines that may wait to be written; callers of `wait_for_room` use half of that at most.
LINES_LIMIT = 4096
#: A writer that has written nothing for so long is stuck: `wait_for_room` no longer waits for it.
STUCK_S = 1.0
#: The same for `flush`, which is longer since there is no later chance to write.
FLUSH_STUCK_S = 2.5
STDOUT, STDERR = 1, 2


class BackgroundHandler(logging.Handler):
    """Passes records to a thread, which writes them with `writer`; nothing else may use that handler."""

    def __init__(self, writer: logging.Handler, limit_lines: int = LINES_LIMIT) -> None:
        super().__init__(writer.level)
        self.filters = writer.filters
        writer.handleError = self._failed  # type: ignore[method-assign]  # logging has no other way
        self._writer = writer
        self._limit_lines = limit_lines
        self._failure: BaseException | None = None
        self._begin()

    def _begin(self) -> None:
        self._thread: threading.Thread | None = None
        self._waiting: deque[logging.LogRecord] = deque()
        #: Lines that wait, and those that the thread is writing.
        self._unwritten_lines = 0
        self._dropped = 0
        #: How many lines are lost if the current write fails.
        self._lost_lines = 0
        self._moved_at = 0.0
        self._changed = threading.Condition()
        #: The process that has the thread; a fork has none.
        self._pid = os.getpid()

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802  # logging's name
        """Set the formatter of the writer."""
        self._writer.setFormatter(fmt)

    def handle(self, record: logging.LogRecord) -> bool:
        """Filter and emit a record as the base class does, but without its lock.

        logging holds that lock during `flush` at shutdown, which waits for the thread, which logs as well.
        """
        is_wanted = bool(self.filter(record))
        if is_wanted:
            self.emit(record)
        return is_wanted

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written soon, or count its lines as dropped if too many wait."""
        if self._pid != os.getpid():
            self._begin_in_fork()
        with self._changed:
            if self._unwritten_lines >= self._limit_lines:
                self._dropped += _lines(record)
                return
            if not self._unwritten_lines:
                self._moved_at = clock.monotonic()
            self._waiting.append(record)
            self._unwritten_lines += _lines(record)
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def _begin_in_fork(self) -> None:
        self.acquire()
        try:
            if self._pid != os.getpid():  # else another thread has just done so
                self._begin()
        finally:
            self.release()

    def _start(self) -> None:
        thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        # If no thread can be started now, the next record tries again.
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def wait_for_room(self) -> None:
        """Wait until the queue is less than half full, or the writer is stuck; not for event loops."""
        self._wait_until_below(self._limit_lines // 2, STUCK_S)

    def flush(self) -> None:
        """Wait until all is written, or the writer is stuck."""
        self._wait_until_below(1, FLUSH_STUCK_S)

    def close(self) -> None:
        """Write what waits, and close."""
        self.flush()
        if not self._unwritten_lines:  # else the thread is still writing
            self._writer.close()
        super().close()

    def _wait_until_below(self, limit_lines: int, stuck_s: float) -> None:
        if self._pid != os.getpid():
            return  # the parent process writes these lines
        with self._changed:
            while self._unwritten_lines >= limit_lines:
                moved_at = max(self._moved_at, getattr(self._writer, "moved_at", 0.0))
                left_s = moved_at + stuck_s - clock.monotonic()
                if left_s <= 0:
                    return
                self._changed.wait(left_s)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                record = self._waiting.popleft()
            self._write(record, _lines(record))
            if self._dropped and self._failure is None:
                with self._changed:
                    dropped, self._dropped = self._dropped, 0
                self._write(_dropped_record(dropped), dropped)
            with self._changed:
                self._unwritten_lines -= _lines(record)
                self._moved_at = clock.monotonic()
                self._changed.notify_all()

    def _write(self, record: logging.LogRecord, lines: int) -> None:
        had_failed, self._failure, self._lost_lines = self._failure is not None, None, lines
        try:
            self._writer.emit(record)
        except Exception:  # noqa: BLE001  # boundary: what a record holds may have no text, others have
            self._failed(record)
        if self._failure is not None and not had_failed:
            # For the other handlers; not again before this one has worked.
            file = getattr(self._writer, "baseFilename", None)
            level = logging.ERROR if file else logging.INFO  # a closed console is no fault
            facts = {"log": file or "the console", "reason": str(self._failure)}
            logger.log(level, "log.not_written", extra=facts)

    def _failed(self, record: logging.LogRecord) -> None:
        """Count a record that can't be written; called in an except clause, the writer's own as well."""
        self._failure = sys.exception()
        with self._changed:
            self._dropped += self._lost_lines


def _lines(record: logging.LogRecord) -> int:
    """Count the lines that a record stands for; see `logs.each`."""
    lines = vars(record).get("lines")
    return len(lines) if isinstance(lines, list) else 1


def _dropped_record(count: int) -> logging.LogRecord:
    level = logging.WARNING
    facts = {"msg": "log.lines_dropped", "count": count, "name": __name__}
    return logging.makeLogRecord({**facts, "levelno": level, "levelname": logging.getLevelName(level)})


class ConsoleHandler(logging.Handler):
    """Writes to stdout or stderr by its fd: a stuck write must not hold a lock that Python needs to exit."""

    def __init__(self, fd: int, level: str | int = logging.NOTSET) -> None:
        super().__init__(level)
        self._fd = fd
        #: When it last wrote something, in seconds of the monotonic clock.
        self.moved_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; a closed console is reported to `handleError`."""
        try:
            left = f"{self.format(record)}\n".encode(errors="backslashreplace")
            while left:
                left = left[self._write(left) :]
                self.moved_at = clock.monotonic()
        except (OSError, TypeError, ValueError):  # or its arguments don't fit its text
            self.handleError(record)

    def _write(self, data: bytes) -> int:
        """Write whole lines, as many as a pipe takes at once, so that no process writes between them."""
        end = data.rfind(b"\n", 0, select.PIPE_BUF) + 1 or select.PIPE_BUF
        try:
            return os.write(self._fd, data[:end])
        except BlockingIOError:  # a process that shares the console has made it non-blocking
            select.select([], [self._fd], [])
            return 0
