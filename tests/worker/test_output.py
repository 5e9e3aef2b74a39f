import os

import msgspec

from worker.orders import LastWords
from worker.output import LINE_LIMIT_BYTES, LINES_KEPT, OutputPipe, StatusPipe


def test_output_comes_line_by_line_however_it_is_written() -> None:
    lines: list[str] = []
    pipe = OutputPipe(lines.append)
    os.write(pipe.writer, b"one\ntw")
    assert pipe.drain()
    assert lines == ["one"]
    os.write(pipe.writer, b"o\r\n\xff\nrest")
    pipe.close_writer()
    assert not pipe.drain()
    assert pipe.close() == ("one", "two", "\ufffd", "rest")
    assert lines == ["one", "two", "\ufffd", "rest"]


def test_only_the_last_lines_are_kept_and_no_line_grows_without_bound() -> None:
    lines: list[str] = []
    pipe = OutputPipe(lines.append)
    for number in range(LINES_KEPT + 10):
        os.write(pipe.writer, b"%d\n" % number)
    os.write(pipe.writer, b"x" * (LINE_LIMIT_BYTES + 100))
    pipe.close_writer()
    last = pipe.close()
    assert len(lines) == LINES_KEPT + 11
    assert len(last) == LINES_KEPT
    assert last[-2:] == (str(LINES_KEPT + 9), "x" * LINE_LIMIT_BYTES)


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
