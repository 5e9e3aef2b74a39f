"""TorchServe's console: the form of its lines, and the texts that scripts look for."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from torchrelay.shared.torchserve import torchserve_log

WORKER: dict[str, Any] = {"worker": 9000, "model": "m", "version": "1.0"}  # Any: facts are of all types


def lines(event: str, level: int = logging.INFO, **facts: object) -> list[str]:
    record = logging.LogRecord("torchrelay.broker.server", level, "f", 1, event, (), None)
    vars(record).update(facts)
    return torchserve_log.TorchServeFormatter("broker").format(record).splitlines()


def test_a_line_has_time_level_thread_logger_and_message() -> None:
    (line,) = lines("node.joined", node="here", held=0)
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} \[INFO \] broker torchrelay.broker.server - (.*)"
    found = re.fullmatch(form, line)
    assert found is not None
    assert found[1] == "node.joined node=here held=0"
    assert "[WARN ]" in lines("x", logging.WARNING)[0]
    assert "[ERROR]" in lines("x", logging.ERROR)[0]


def test_what_a_worker_prints_stands_under_its_own_thread() -> None:
    for stream, level in (("stdout", "[INFO ]"), ("stderr", "[WARN ]")):
        (line,) = lines("worker.output", **WORKER, line="hello", stream=stream)
        assert line.endswith(f"{level} W-9000-m_1.0-{stream} MODEL_LOG - hello")


def test_a_worker_that_did_not_answer_is_told_in_torchserves_words_and_order() -> None:
    told = lines("worker.stuck", **WORKER, reason="2 s", was_ready=True, failures=1, retry_in_s=1)
    texts = [
        "Number or consecutive unsuccessful inference 1",
        "Backend worker error",
        "org.pytorch.serve.wlm.WorkerInitializationException: Backend worker did not respond in given time",
        "9000 Worker disconnected. WORKER_MODEL_LOADED",
        "Auto recovery start timestamp: ",
        "Retry worker: 9000 in 1 seconds.",
    ]
    assert len(told) == len(texts)
    for line, text in zip(told, texts, strict=True):
        assert text in line


def test_a_worker_that_came_up_too_late_had_no_inference_that_failed() -> None:
    told = lines("worker.late", **WORKER, reason="5 s", was_ready=False, failures=2, retry_in_s=2)
    assert "Backend worker error" in told[0]
    assert "did not respond in given time" in told[1]
    assert "WORKER_STARTED" in told[2]
    assert "Auto recovery failed again" in told[3]


@pytest.mark.parametrize(("failures", "recovered"), [(0, False), (1, True)])
def test_recovery_is_told_only_where_something_had_failed(failures: int, recovered: bool) -> None:
    text = "Auto recovery succeeded, reset recoveryStartTS"
    assert any(text in line for line in lines("worker.ready", **WORKER, failures=failures)) is recovered


def test_a_worker_that_is_given_up_is_not_announced_again() -> None:
    told = lines("worker.failed", **WORKER, reason="exited with 1", was_ready=False, failures=7)
    assert not any("Retry worker" in line for line in told)
    assert told[0].endswith("Backend worker process died. Reason: exited with 1")


def test_an_exception_that_was_printed_already_is_not_repeated() -> None:
    output = "Traceback (most recent call last):\nValueError: no weights"
    told = lines("worker.failed", **WORKER, reason="ValueError: no weights", output=output, failures=1)
    assert told[0].endswith("Backend worker process died.")


@pytest.mark.parametrize("event", ["worker.gone", "worker.exited"])
def test_nor_do_the_lines_of_a_workers_end_repeat_it(event: str) -> None:
    for line in lines(event, **WORKER, reason="ValueError: no weights"):
        assert "ValueError" not in line
        assert "W-9000-m_1.0" in line


def test_both_streams_of_a_worker_end() -> None:
    said = [line.partition(" - ")[2] for line in lines("worker.exited", **WORKER)]
    assert said == [f"Stopped Scanner - W-9000-m_1.0-{stream}" for stream in ("stderr", "stdout")]


def test_a_traceback_of_ours_is_not_lost() -> None:
    try:
        raise ValueError("no good")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "gateway.bug", (), (type(error), error, None))
    assert torchserve_log.TorchServeFormatter("gateway").format(record).endswith("ValueError: no good")


def test_the_file_has_all_but_what_workers_print(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before, level = logging.getLogger().handlers, logging.getLogger().level
    try:
        torchserve_log.configure("node", level="INFO", log_file=tmp_path / "ts_log.log")
        logging.getLogger("worker").info(
            "worker.output", extra={**WORKER, "line": "printed", "stream": "stdout"}
        )
        logging.getLogger("worker").info("node.started")
    finally:
        for handler in logging.getLogger().handlers:
            handler.close()
        logging.getLogger().handlers = before
        logging.getLogger().setLevel(level)
    written = (tmp_path / "ts_log.log").read_text()
    assert "node.started" in written
    assert "printed" not in written
    assert "MODEL_LOG - printed" in capfd.readouterr().out
