"""What workers print: line by line and by stream, however they write it, and what they say last."""

import asyncio
import errno
import os
import resource
from pathlib import Path

import msgspec
import pytest

from tests.support import eventually_async
from torchrelay.worker.orders import LastWords
from torchrelay.worker.output import LINE_LIMIT_BYTES, LINES_KEPT, Output, StatusPipe, Stream


class Heard:
    """Output whose other ends a test holds, and the lines that came."""

    def __init__(self) -> None:
        self.lines: list[tuple[Stream, str]] = []
        self.output = Output(lambda stream, line: self.lines.append((stream, line)))
        self.ends: dict[Stream, int] = {
            "stdout": os.dup(self.output.stdout.writer),
            "stderr": os.dup(self.output.stderr.writer),
        }
        self.output.follow()

    def close(self) -> tuple[str, ...]:
        for fd in self.ends.values():
            os.close(fd)
        return self.output.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_output_comes_line_by_line_and_by_stream_however_it_is_written() -> None:
    heard = Heard()
    os.write(heard.ends["stdout"], b"one\ntw")
    await eventually_async(lambda: heard.lines == [("stdout", "one")])
    os.write(heard.ends["stderr"], b"a warning\nun")
    await eventually_async(lambda: heard.lines[1:] == [("stderr", "a warning")])
    os.write(heard.ends["stdout"], b"o\r\n\xff\nrest")
    await eventually_async(lambda: heard.lines[2:] == [("stdout", "two"), ("stdout", "\ufffd")])
    os.write(heard.ends["stderr"], b"ended")
    assert heard.close() == ("one", "a warning", "two", "\ufffd", "rest", "unended")
    assert heard.lines[4:] == [("stdout", "rest"), ("stderr", "unended")]


async def test_closing_does_not_wait_for_what_prints_on_when_the_worker_has_gone() -> None:
    answered = 0

    def answer(stream: Stream, line: str) -> None:
        nonlocal answered
        answered += 1
        assert answered < 1000, "it is read without end"
        os.write(left, b"and on\n")

    output = Output(answer)
    left = os.dup(output.stdout.writer)
    output.follow()
    os.write(left, b"on\n")
    assert output.close() == ("on",)
    os.close(left)


async def test_a_stream_that_a_handler_closes_costs_nothing_and_the_other_goes_on() -> None:
    heard = Heard()
    ended = heard.output.stdout.fd
    os.close(heard.ends.pop("stdout"))
    os.write(heard.ends["stderr"], b"still here\n")
    await eventually_async(lambda: heard.lines == [("stderr", "still here")])
    assert not asyncio.get_running_loop().remove_reader(ended), "it would wake the loop for ever"
    assert heard.close() == ("still here",)


async def test_a_worker_that_prints_without_end_does_not_keep_its_node_from_all_else() -> None:
    heard = Heard()
    endless = await asyncio.create_subprocess_exec("yes", stdout=heard.ends["stdout"])
    try:
        await eventually_async(lambda: heard.lines)
        os.write(heard.ends["stderr"], b"heard\n")
        await eventually_async(lambda: ("stderr", "heard") in heard.lines)
    finally:
        endless.kill()
        await endless.wait()
    heard.close()


async def test_only_the_last_lines_of_both_are_kept_and_no_line_grows_without_bound() -> None:
    heard = Heard()
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
        Heard().close()
    assert open_files() == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_where_one_of_the_pipes_cannot_be_had_the_other_is_closed() -> None:
    before = open_files()
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    for fd in free:
        os.close(fd)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, limits[1]))
    failure = 0
    try:
        Output(lambda stream, line: None)
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
        os.write(pipe.writer, written)
        pipe.close_writer()
        assert pipe.last_words() == expected


def test_last_words_are_not_waited_for() -> None:
    pipe = StatusPipe()
    assert pipe.last_words() is None
    pipe.close_writer()
