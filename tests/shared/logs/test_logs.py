"""Log lines: one record is one line, whatever its fields hold."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchrelay.shared.logs import logs
from torchrelay.shared.settings import DEFAULT_LOG_LIMITS


def record(event: str, **extra: object) -> logging.LogRecord:
    return logging.getLogger("test").makeRecord(
        "test", logging.WARNING, __file__, 1, event, (), None, extra=extra
    )


def test_a_text_line_names_process_event_and_facts() -> None:
    line = logs.TextFormatter("broker").format(record("worker.lost", worker=3, reason='no "beat"'))
    assert line.endswith('Z WARNING broker worker.lost worker=3 reason="no \\"beat\\""')


def test_no_field_can_start_a_line_of_its_own() -> None:
    text = logs.TextFormatter("broker").format(record("a\nb", reason="x\r\n2026 ERROR forged", empty=""))
    line, *below = text.splitlines()
    assert line.endswith('a\\nb empty=""')
    assert below == ["  reason| x", "  reason| 2026 ERROR forged"]


def test_a_json_line_holds_the_same_facts() -> None:
    entry = json.loads(logs.JsonFormatter("gateway").format(record("worker.lost", path=Path("/x"), jobs=2)))
    assert entry["time"].endswith("Z")
    assert entry | {"time": 0} == {
        "time": 0,
        "level": "WARNING",
        "process": "gateway",
        "event": "worker.lost",
        "path": "/x",
        "jobs": 2,
    }


def test_an_exception_is_written_below_its_line() -> None:
    try:
        raise ValueError("boom")
    except ValueError as error:
        made = logging.getLogger("test").makeRecord(
            "test", logging.ERROR, __file__, 1, "failed", (), (type(error), error, error.__traceback__)
        )
    assert logs.TextFormatter("x").format(made).splitlines()[-1] == "  ValueError: boom"
    assert "ValueError: boom" in json.loads(logs.JsonFormatter("x").format(made))["traceback"]


@pytest.fixture
def _root_logger_is_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers, root.level = handlers, level


@pytest.mark.usefixtures("_root_logger_is_restored")
def test_the_file_gets_what_the_terminal_is_spared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("node", log_file=tmp_path / "node.log")
    logging.getLogger("worker").info("worker.joined")
    logging.getLogger("worker").warning("worker.lost")
    for handler in logging.getLogger().handlers:
        handler.flush()
    assert (tmp_path / "node.log").read_text().count("\n") == 2
    assert "worker.joined" not in (shown := capfd.readouterr().err)
    assert "worker.lost" in shown


@pytest.mark.usefixtures("_root_logger_is_restored")
def test_a_large_log_is_moved_away_with_the_next_line(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    log.touch()
    os.truncate(log, DEFAULT_LOG_LIMITS.file_bytes)
    logs.configure("broker", log_file=log)
    logging.getLogger("broker").warning("worker.lost")
    for handler in logging.getLogger().handlers:
        handler.flush()
    assert (tmp_path / "broker.log.1").stat().st_size == DEFAULT_LOG_LIMITS.file_bytes
    assert log.read_text().count("\n") == 1
