"""The access log has a line for each response, as TorchServe's has."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import eventually_async
from torchrelay.gateway.http.access_log import WAITING_LINES, AccessLog
from torchrelay.shared.settings import LogLimits

LINE = re.compile(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} - /127\.0\.0\.1:4711 ("[^"]+" \d{3}) \d+\n')


def lines(path: Path) -> list[str]:
    """What is told of each response; fails if anything but whole lines is in the file."""
    written = path.read_text() if path.exists() else ""
    assert LINE.sub("", written) == ""
    return LINE.findall(written)


async def respond(log: AccessLog, method: str, path: str, query: str = "", status: int = 200) -> None:
    scope = {
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "http_version": "1.1",
        "client": ("127.0.0.1", 4711),
    }
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    told: list[dict[str, Any]] = [
        {"type": "http.response.start", "status": status},
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"b"},
    ]
    noting = log.watch(scope, send)
    for message in told:
        await noting(message)
    assert sent == told


async def test_each_response_is_one_line_with_its_request_as_it_was_sent(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"))
    await respond(log, "POST", "/predictions/a%20b", "x=1&y=%20")
    await respond(log, "GET", "/nowhere", status=404)
    log.close()
    assert lines(tmp_path / "log") == [
        '"POST /predictions/a%20b?x=1&y=%20 HTTP/1.1" 200',
        '"GET /nowhere HTTP/1.1" 404',
    ]


async def test_lines_are_written_soon_without_being_asked_for(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"))
    await respond(log, "GET", "/one")
    await eventually_async(lambda: lines(tmp_path / "log"))
    await respond(log, "GET", "/two")
    await eventually_async(lambda: len(lines(tmp_path / "log")) == 2)


async def test_a_log_that_is_moved_away_begins_anew(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"))
    await respond(log, "GET", "/one")
    log.flush()
    await eventually_async(lambda: lines(tmp_path / "log"))
    (tmp_path / "log").rename(tmp_path / "log.1")
    await respond(log, "GET", "/two")
    log.close()
    assert lines(tmp_path / "log.1") == ['"GET /one HTTP/1.1" 200']
    assert lines(tmp_path / "log") == ['"GET /two HTTP/1.1" 200']


async def test_it_is_moved_away_however_many_requests_come(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"), LogLimits(2000, 2))
    for _ in range(100):
        await respond(log, "GET", "/models", "x" * 300)
        log.flush()
    log.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sorted(sizes) == ["log", "log.1", "log.2"]
    assert max(sizes.values()) <= 2000


async def test_a_log_that_cannot_be_written_is_told_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = AccessLog(str(tmp_path / "no-such-folder" / "log"))
    await respond(log, "GET", "/one")
    await respond(log, "GET", "/two")
    log.close()
    (record,) = caplog.records
    assert (record.message, vars(record)["log"]) == ("log.not_written", str(tmp_path / "no-such-folder/log"))


async def test_a_disk_that_hangs_holds_up_no_request(tmp_path: Path) -> None:
    """A pipe that nobody reads, in the place of one."""
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDWR)  # so that it has no end before it is written to
    log = AccessLog(str(tmp_path / "log"))
    for number in range(100):
        await respond(log, "GET", f"/{number}{'x' * 2000}")
        log.flush()
    with open(reader, "rb") as file:
        assert [file.readline().split()[4] for _ in range(100)] == [
            f"/{number}{'x' * 2000}".encode() for number in range(100)
        ]
        log.close()


async def test_how_many_lines_could_not_be_written_is_said_where_they_are_missing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    log = AccessLog(str(tmp_path / "log"))
    for count in (WAITING_LINES, 7):
        log._lines = ["a line"] * count
        log.flush()
    with (tmp_path / "log").open() as file:
        told = [file.readline() for _ in range(WAITING_LINES + 1)]
        assert told[-2:] == ["a line\n", "log.lines_dropped count=7\n"]
        log.close()
