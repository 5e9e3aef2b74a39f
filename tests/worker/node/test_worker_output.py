"""What workers print: line by line and by stream, however they write it, and what they say last."""

import asyncio
import errno
import os
import resource
import select
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests.support import eventually, eventually_async
from torchrelay.worker.launcher.launcher_protocol import LastWords, LoadingPhase
from torchrelay.worker.node.worker_output import (
    LINE_LIMIT_BYTES,
    LINES_KEPT,
    PIPE_BYTES,
    READ_BYTES,
    Output,
    OutputReader,
    StatusPipe,
    Stream,
)

#: Far longer than anything here takes.
CLOSE_S = 10.0


class Heard:
    """Output whose other ends a test holds, and the lines that came."""

    def __init__(self, reader: OutputReader) -> None:
        self.reader = reader
        self.lines: list[tuple[Stream, str]] = []
        self.output = Output(reader, self._hear)
        self.ends: dict[Stream, int] = {
            "stdout": os.dup(self.output.stdout.writer.fileno()),
            "stderr": os.dup(self.output.stderr.writer.fileno()),
        }
        self.output.follow()

    def _hear(self, stream: Stream, lines: list[str]) -> None:
        self.lines += [(stream, line) for line in lines]

    def close(self) -> tuple[str, ...]:
        for fd in self.ends.values():
            os.close(fd)
        last = self.output.close()
        self.reader.close(CLOSE_S)
        return last


@pytest.fixture
def reader() -> Iterator[OutputReader]:
    reader = OutputReader()
    yield reader
    reader.close(CLOSE_S)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_output_comes_line_by_line_and_by_stream_however_it_is_written(reader: OutputReader) -> None:
    heard = Heard(reader)
    os.write(heard.ends["stdout"], b"one\ntw")
    await eventually_async(lambda: heard.lines == [("stdout", "one")])
    os.write(heard.ends["stderr"], b"a warning\nun")
    await eventually_async(lambda: heard.lines[1:] == [("stderr", "a warning")])
    os.write(heard.ends["stdout"], b"o\r\n\xff\nrest")
    await eventually_async(lambda: heard.lines[2:] == [("stdout", "two"), ("stdout", "\ufffd")])
    os.write(heard.ends["stderr"], b"ended")
    assert heard.close() == ("one", "a warning", "two", "\ufffd", "rest", "unended")
    assert heard.lines[4:] == [("stdout", "rest"), ("stderr", "unended")]


async def test_closing_does_not_wait_for_what_prints_on_when_the_worker_has_gone(
    reader: OutputReader,
) -> None:
    heard = Heard(reader)
    left = os.dup(heard.ends["stdout"])
    endless = await asyncio.create_subprocess_exec("yes", stdout=left)
    os.close(left)
    await eventually_async(lambda: heard.lines)
    assert set(heard.close()) <= {"y", ""}
    assert await endless.wait() == -signal.SIGPIPE, "nobody reads on"


async def test_a_stream_that_a_handler_closes_costs_nothing_and_the_other_goes_on(
    reader: OutputReader,
) -> None:
    heard = Heard(reader)
    ended = heard.output.stdout.reader.fileno()
    os.close(heard.ends.pop("stdout"))
    os.write(heard.ends["stderr"], b"still here\n")
    await eventually_async(lambda: heard.lines == [("stderr", "still here")])
    was_watched: list[bool] = []
    reader.call(lambda: was_watched.append(reader.remove(ended)))
    await eventually_async(lambda: was_watched == [False])
    assert heard.close() == ("still here",)


async def test_a_worker_that_prints_without_end_keeps_no_other_from_being_heard(reader: OutputReader) -> None:
    heard, other = Heard(reader), Heard(reader)
    endless = await asyncio.create_subprocess_exec("yes", "", stdout=heard.ends["stdout"])
    try:
        await eventually_async(lambda: heard.lines)
        os.write(heard.ends["stderr"], b"heard\n")
        os.write(other.ends["stdout"], b"heard\n")
        await eventually_async(lambda: ("stderr", "heard") in heard.lines and other.lines)
    finally:
        endless.kill()
        await endless.wait()
    other.close()
    heard.close()


async def test_who_prints_more_than_is_written_down_waits_and_nobody_else_does() -> None:
    has_room = threading.Event()

    def wait_for_room() -> None:
        has_room.wait(CLOSE_S)

    reader = OutputReader(wait_for_room)
    heard = Heard(reader)
    end = heard.ends["stdout"]
    os.set_blocking(end, False)
    written = 0
    try:
        while written < 10 * PIPE_BYTES:
            written += os.write(end, b"a line\n" * 100)
    except BlockingIOError:
        pass  # the loop of this test was not held up, the pipe's writer is
    assert written < 2 * PIPE_BYTES + READ_BYTES
    has_room.set()
    await eventually_async(lambda: len(heard.lines) == written // len(b"a line\n"))
    heard.close()


def test_a_wake_that_comes_after_its_call_was_answered_ends_no_reader(reader: OutputReader) -> None:
    """The call was seen on the way to another one's answer."""
    answered: list[int] = []
    reader.call(partial(answered.append, 1))
    eventually(lambda: answered)
    reader._wake()
    eventually(lambda: not select.select([reader._wake_reader], [], [], 0)[0])
    reader.call(partial(answered.append, 2))
    eventually(lambda: answered == [1, 2])


async def test_all_that_was_printed_last_is_heard_though_it_is_much(reader: OutputReader) -> None:
    heard = Heard(reader)
    is_busy, has_room = threading.Event(), threading.Event()

    def wait_for_room() -> None:
        is_busy.set()
        has_room.wait(CLOSE_S)

    reader.call(wait_for_room)
    eventually(is_busy.is_set)  # it follows the pipes before that, and would read what comes
    os.write(heard.ends["stdout"], b"\n" * PIPE_BYTES)
    last = heard.output.close()
    assert last == ("",) * LINES_KEPT, "known at once, whatever the reader has to do"
    assert heard.lines == []
    has_room.set()
    await eventually_async(lambda: len(heard.lines) == PIPE_BYTES)
    for fd in heard.ends.values():
        os.close(fd)


async def test_only_the_last_lines_of_both_are_kept_and_no_line_grows_without_bound(
    reader: OutputReader,
) -> None:
    heard = Heard(reader)
    for number in range(LINES_KEPT + 10):
        os.write(heard.ends["stdout"], b"%d\n" % number)
    os.write(heard.ends["stderr"], b"x" * (LINE_LIMIT_BYTES + 100))
    last = heard.close()
    assert len(heard.lines) == LINES_KEPT + 11
    assert len(last) == LINES_KEPT
    assert last[-2:] == (str(LINES_KEPT + 9), "x" * LINE_LIMIT_BYTES)


async def test_a_worker_whose_output_has_been_read_leaves_no_file_open() -> None:
    before = open_files()
    for _ in range(3):
        Heard(OutputReader()).close()
    assert open_files() == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_where_one_of_the_pipes_cannot_be_had_the_other_is_closed(reader: OutputReader) -> None:
    before = open_files()
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    for fd in free:
        os.close(fd)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, limits[1]))
    failure = 0
    try:
        Output(reader, lambda stream, line: None)
    except OSError as error:
        failure = error.errno or 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert failure == errno.EMFILE
    assert open_files() == before


def test_last_words_are_read_where_there_are_any() -> None:
    words = LastWords("ValueError: bad", False)
    for written, expected in ((b"", None), (b"garbage", None), (msgspec.json.encode(words), words)):
        pipe = StatusPipe()
        os.write(pipe.writer.fileno(), written)
        pipe.writer.close()
        assert pipe.last_words() == expected


def test_phases_are_told_as_they_come_and_the_first_last_words_count() -> None:
    pipe = StatusPipe()
    warming, waiting = LoadingPhase("warming"), LoadingPhase("waiting")
    assert pipe.phases() == []
    encoded = msgspec.json.encode(warming)
    os.write(pipe.writer.fileno(), encoded[:5])
    assert pipe.phases() == []
    os.write(
        pipe.writer.fileno(), encoded[5:] + b'\nrubbish\n"\xff"\n' + msgspec.json.encode(waiting) + b"\n"
    )
    assert pipe.phases() == [warming, waiting]
    for reason in ("first", "second"):
        os.write(pipe.writer.fileno(), msgspec.json.encode(LastWords(reason, False)) + b"\n")
    assert pipe.phases() == []
    pipe.writer.close()
    assert pipe.phases() is None
    assert pipe.last_words() == LastWords("first", False)


def test_last_words_are_not_waited_for() -> None:
    pipe = StatusPipe()
    assert pipe.last_words() is None
    pipe.writer.close()
