"""Logs that hold up nobody: a console that takes nothing, a disk that is full, a process that forks."""

import errno
import logging
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import eventually
from torchrelay.shared.logs import logs
from torchrelay.shared.logs.log_thread import BackgroundHandler, ConsoleHandler

#: Far longer than anything here takes.
LIMIT_S = 10.0


class Slow(logging.Handler):
    """Writes nothing while it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write = threading.Event()
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.may_write.wait(LIMIT_S)
        self.written.append(f"{record.getMessage()} {vars(record).get('count', '')}".strip())


class Full(logging.Handler):
    """A disk that may be full."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = True
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.written.append(f"{record.getMessage()} {vars(record).get('count', '')}".strip())
        except OSError:
            self.handleError(record)


def record(text: str, **facts: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, **facts})


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_nobody_waits_for_a_writer_that_is_stuck_and_what_is_lost_is_counted() -> None:
    slow = Slow()
    handler = BackgroundHandler(slow, limit_lines=4)
    for number in range(10):
        handler.handle(record(f"line {number}"))
    assert slow.written == []
    handler.flush()  # returns, though nothing can be written
    handler.wait_for_room()
    slow.may_write.set()
    eventually(lambda: len(slow.written) == 5)
    assert slow.written == ["line 0", "log.lines_dropped 6", "line 1", "line 2", "line 3"]
    handler.close()


def test_a_record_of_many_lines_counts_as_many() -> None:
    slow = Slow()
    handler = BackgroundHandler(slow, limit_lines=4)
    handler.handle(record("many", lines=["a"] * 5))
    handler.handle(record("many", lines=["a"] * 7))
    slow.may_write.set()
    eventually(lambda: slow.written == ["many", "log.lines_dropped 7"])
    handler.close()


def test_who_has_much_to_say_waits_for_a_writer_that_goes_on() -> None:
    slow = Slow()
    handler = BackgroundHandler(slow, limit_lines=4)
    for number in range(3):
        handler.handle(record(f"line {number}"))
    waits = threading.Thread(target=handler.wait_for_room)
    waits.start()
    slow.may_write.set()
    waits.join(LIMIT_S)
    assert len(slow.written) >= 2
    handler.close()
    assert slow.written == ["line 0", "line 1", "line 2"]


def test_a_log_that_cannot_be_written_is_told_of_once_and_goes_on_when_it_can(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    full = Full()
    handler = BackgroundHandler(full)
    with caplog.at_level(logging.INFO):
        for number in range(3):
            handler.handle(record(f"line {number}"))
        handler.flush()
    assert [made.getMessage() for made in caplog.records] == ["log.not_written"]
    assert "No space left" in vars(caplog.records[0])["reason"]
    full.is_full = False
    handler.handle(record("line 3"))
    handler.close()
    assert full.written == ["line 3", "log.lines_dropped 3"]
    assert capfd.readouterr() == ("", ""), "no traceback for each"


def test_what_was_dropped_is_still_counted_when_the_count_cannot_be_written_either() -> None:
    class Failing(Slow):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "log.lines_dropped" and len(self.written) == 1:
                self.written.append("(failed)")
                raise OSError(errno.ENOSPC, "No space left on device")
            super().emit(record)

    failing = Failing()
    handler = BackgroundHandler(failing, limit_lines=1)
    for number in range(5):
        handler.handle(record(f"line {number}"))
    failing.may_write.set()
    eventually(lambda: len(failing.written) == 2)
    handler.handle(record("line 5"))
    eventually(lambda: len(failing.written) == 4)
    assert failing.written == ["line 0", "(failed)", "line 5", "log.lines_dropped 4"]
    handler.close()


def test_a_record_that_cannot_be_written_as_text_costs_itself_alone(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    reader, writer = pipe
    handler = BackgroundHandler(ConsoleHandler(writer))
    handler.setFormatter(logs.TextFormatter("node"))
    handler.handle(record("bad", reason=Unspeakable()))
    handler.handle(record("good"))
    handler.close()
    shown = os.read(reader, 65536).decode()
    assert "node good" in shown
    assert "log.lines_dropped count=1" in shown


def test_a_file_that_has_been_closed_is_whole(tmp_path: Path) -> None:
    handler = BackgroundHandler(logging.FileHandler(tmp_path / "log"))
    for number in range(1000):
        handler.handle(record(f"line {number}"))
    handler.close()
    assert (tmp_path / "log").read_text().splitlines() == [f"line {number}" for number in range(1000)]


def test_a_forked_process_logs_for_itself_alone(tmp_path: Path) -> None:
    slow = Slow()
    handler = BackgroundHandler(slow)
    handler.handle(record("the parent's"))
    pid = os.fork()
    if pid == 0:
        slow.written, slow.may_write = [], threading.Event()
        slow.may_write.set()
        handler.handle(record("the child's"))
        handler.flush()
        os._exit(0 if slow.written == ["the child's"] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    slow.may_write.set()
    handler.close()
    assert slow.written == ["the parent's"]


def test_a_forked_process_does_not_wait_for_what_its_parent_has_to_write() -> None:
    slow = Slow()
    handler = BackgroundHandler(slow, limit_lines=4)
    for number in range(4):
        handler.handle(record(f"line {number}"))
    pids: list[int] = []

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(LIMIT_S))
            handler.wait_for_room()
            handler.flush()
            os._exit(0)
        pids.append(pid)

    with handler._changed:  # as the thread may hold it, which the fork doesn't have
        forking = threading.Thread(target=fork)
        forking.start()
        forking.join()
    assert os.waitpid(pids[0], 0)[1] == 0
    slow.may_write.set()
    handler.close()


def test_a_writer_that_fails_for_the_first_time_at_the_end_does_not_delay_it() -> None:
    """Its failure is logged by the thread that the end waits for."""
    reader, gone = os.pipe()
    os.close(reader)
    told: list[str] = []

    class Console(ConsoleHandler):
        def emit(self, record: logging.LogRecord) -> None:
            is_ending.wait(LIMIT_S)
            super().emit(record)

    class Handler(BackgroundHandler):
        def flush(self) -> None:
            is_ending.set()
            super().flush()
            told.append(f"{self._unwritten_lines} left")

    is_ending = threading.Event()
    root = logging.getLogger()
    before, root.handlers = root.handlers, [Handler(Console(gone))]
    level = root.level
    root.setLevel(logging.INFO)
    try:
        root.handlers[0].handle(record("nobody reads it"))
        logging.shutdown([weakref.ref(root.handlers[0])])
    finally:
        root.handlers = before
        root.setLevel(level)
        os.close(gone)
    assert told[0] == "0 left"


def test_a_console_that_somebody_made_non_blocking_gets_everything(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    handler = BackgroundHandler(ConsoleHandler(writer))
    handler.handle(record("x" * 200_000))
    found = b""
    while not found.endswith(b"\n"):
        found += os.read(reader, 65536)
    assert found == b"x" * 200_000 + b"\n"
    handler.close()


def test_lines_are_written_whole_where_several_processes_share_a_console(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = BackgroundHandler(ConsoleHandler(writer))
    handler.handle(record("\n".join(["y" * 99] * 60)))
    handler.flush()
    handler.close()
    os.set_blocking(reader, False)
    assert os.read(reader, 65536) == (b"y" * 99 + b"\n") * 60


def test_a_console_whose_reader_has_gone_is_no_fault(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    handler = BackgroundHandler(ConsoleHandler(writer))
    with caplog.at_level(logging.INFO):
        handler.handle(record("nobody reads it"))
        handler.close()
    os.close(writer)
    assert [made.levelname for made in caplog.records] == ["INFO"]
    assert capfd.readouterr() == ("", "")
