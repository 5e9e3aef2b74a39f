"""A log's file: moved away when it is long, by whoever notices, and no line is lost or written twice."""

import itertools
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchrelay.shared.logs.log_file import LogFile, LogFileHandler
from torchrelay.shared.settings import LogLimits

LINE = b"x" * 99 + b"\n"
#: It forks when the file is open: both processes go on with it.
WRITER = """
import os, sys
from pathlib import Path
from torchrelay.shared.logs.log_file import LogFile
from torchrelay.shared.settings import LogLimits
file = LogFile(Path(sys.argv[1]), LogLimits(2000, 1000))
file.append(b"")
child = os.fork()
for number in range(2000):
    file.append(f"{sys.argv[2]} {bool(child)} {number}\\n".encode())
if child:
    sys.exit(os.waitpid(child, 0)[1])
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_full_file_is_moved_away_and_the_oldest_goes(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", LogLimits(1000, 2))
    for number in range(45):
        file.append(b"%02d" % number + LINE[2:])
    assert names(tmp_path) == ["log", "log.1", "log.2"]
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {"log": 500, "log.1": 1000, "log.2": 1000}
    assert (tmp_path / "log.1").read_bytes().startswith(b"30")
    file.close()


def test_none_of_the_older_ones_need_be_kept(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", LogLimits(1000, 0))
    for _ in range(15):
        file.append(LINE)
    assert (names(tmp_path), (tmp_path / "log").stat().st_size) == (["log"], 500)


def test_a_file_without_a_limit_is_never_moved(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", LogLimits(0, 5))
    file.append(LINE)
    os.truncate(tmp_path / "log", 1 << 40)
    file.append(LINE)
    assert names(tmp_path) == ["log"]
    file.close()


def test_one_line_above_the_limit_is_written_all_the_same(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", LogLimits(10, 5))
    file.append(LINE)
    file.append(LINE)
    assert names(tmp_path) == ["log", "log.1"]


@pytest.mark.integration
def test_processes_that_share_a_file_lose_no_line(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "log"), str(number)])
        for number in range(2)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(names(tmp_path)) > 20
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    expected = itertools.product((0, 1), (False, True), range(2000))
    assert sorted(lines) == sorted(" ".join(map(str, parts)) for parts in expected)


def test_a_file_that_others_move_or_truncate_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    file = LogFile(log, LogLimits())
    file.append(LINE)
    log.rename(tmp_path / "log-20260101")
    file.append(LINE)
    assert (tmp_path / "log-20260101").read_bytes() == log.read_bytes() == LINE
    os.truncate(log, 0)
    file.append(LINE)
    assert log.read_bytes() == LINE
    log.unlink()
    file.append(LINE)
    assert log.read_bytes() == LINE


def test_a_link_stays_and_its_target_is_moved(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "log").symlink_to(tmp_path / "disk" / "log")
    file = LogFile(tmp_path / "log", LogLimits(150, 5))
    file.append(LINE)
    file.append(LINE)
    assert names(tmp_path / "disk") == ["log", "log.1"]
    assert (tmp_path / "log").is_symlink()


def test_a_link_to_the_standard_output_is_written_through(tmp_path: Path) -> None:
    """As images of servers have it: there it is a pipe, to which no path leads but the link's."""
    (tmp_path / "log").symlink_to("/dev/stdout")
    ends = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(ends[1], 1)
        file = LogFile(tmp_path / "log", LogLimits(150, 5))
        file.append(LINE)
        file.append(LINE)
        os._exit(0)
    os.close(ends[1])
    with open(ends[0], "rb") as reader:
        assert reader.read() == LINE * 2
    assert os.waitpid(child, 0)[1] == 0


def test_a_link_to_what_is_not_there_yet_makes_it(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "target")
    LogFile(tmp_path / "log", LogLimits()).append(LINE)
    assert (tmp_path / "target").read_bytes() == LINE


def test_a_file_that_cannot_be_moved_grows_on_and_older_ones_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is mounted by itself can't: here, a folder stands in the place of an older one."""
    (tmp_path / "log.1").mkdir()
    file = LogFile(tmp_path / "log", LogLimits(150, 2))
    for _ in range(5):
        file.append(LINE)
        (tmp_path / "log.2" / "in the way").mkdir(parents=True, exist_ok=True)
    assert (tmp_path / "log").read_bytes() == LINE * 5
    assert (tmp_path / "log.1").is_dir()
    assert [made.message for made in caplog.records] == ["log.not_moved_away"]
    file.close()


def test_what_is_no_regular_file_is_never_moved(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/null")
    file = LogFile(tmp_path / "log", LogLimits(1, 5))
    file.append(LINE)
    file.append(LINE)
    assert names(tmp_path) == ["log"]


def test_a_handler_whose_file_can_not_be_opened_is_told_by_logging(tmp_path: Path) -> None:
    handler = LogFileHandler(tmp_path / "no" / "log", LogLimits())
    failed: list[logging.LogRecord] = []
    handler.handleError = failed.append  # type: ignore[method-assign, assignment]  # as BackgroundHandler does
    handler.handle(logging.makeLogRecord({"msg": "one"}))
    assert len(failed) == 1
    (tmp_path / "no").mkdir()
    handler.handle(logging.makeLogRecord({"msg": "two\udc80"}))
    assert (tmp_path / "no" / "log").read_bytes() == b"two?\n"
    handler.close()
