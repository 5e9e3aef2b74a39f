"""ts_metrics.log and model_metrics.log: TorchServe's lines, written beside the loop."""

import re
from pathlib import Path

import pytest

from tests.support import eventually
from torchrelay.broker.core.torchserve_metrics import Line
from torchrelay.broker.storage.metrics_log import WAITING_LIMIT, MetricsLog, formatted
from torchrelay.shared.settings import LogLimits

SERVER = Line(False, "WorkerLoadTime", "Milliseconds", 4209.0,
              (("WorkerName", "W-9000-m_1.0"), ("Level", "Host")), "vm", 1_795_349_646_182)  # fmt: skip
MODEL = Line(True, "PredictionTime", "ms", 0.26,
             (("ModelName", "m"), ("Level", "Model")), "vm", 1_795_349_655_781, ("r-1", "r-2"))  # fmt: skip


def test_lines_are_torchserves() -> None:
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
    assert re.fullmatch(
        time + re.escape(" - WorkerLoadTime.Milliseconds:4209.0|#WorkerName:W-9000-m_1.0,Level:Host"
                         "|#hostname:vm,timestamp:1795349646"),
        formatted(SERVER),
    )  # fmt: skip
    assert formatted(MODEL).endswith(
        " - PredictionTime.ms:0.26|#ModelName:m,Level:Model|#hostname:vm,requestID:r-1,r-2"
        ",timestamp:1795349655"
    )
    assert "requestID:null," in formatted(
        Line(True, "GoldenError", "unit", 1.0, (("Level", "Error"),), "vm", 0)
    )


def test_a_value_cannot_make_a_line_of_its_own() -> None:
    assert "\n" not in formatted(Line(True, "N", "u", 1.0, (("a", "x\ny\r"),), "vm\n", 0, ("r\n",)))


def test_both_files_are_there_from_the_start_and_get_their_own_lines(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "logs")
    server, model = tmp_path / "logs" / "ts_metrics.log", tmp_path / "logs" / "model_metrics.log"
    assert server.read_text() == model.read_text() == ""
    log.write((SERVER, MODEL, SERVER))
    eventually(lambda: len(server.read_text().splitlines()) == 2)  # at once, not when it is closed
    log.close()
    assert len(model.read_text().splitlines()) == 1


def test_what_waits_is_written_before_the_end(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    assert all(log.write((SERVER,) * 10) for _ in range(500))
    log.close()
    assert len((tmp_path / "ts_metrics.log").read_text().splitlines()) == 5000


def test_both_files_are_moved_away_however_much_is_written(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, LogLimits(2000, 2))
    assert all(log.write((SERVER, MODEL) * 4) for _ in range(200))
    log.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    names = [f"{name}.log{number}" for name in ("model_metrics", "ts_metrics") for number in ("", ".1", ".2")]
    assert sorted(sizes) == names
    assert max(sizes.values()) <= 2000


def test_lines_that_find_no_room_are_dropped_and_never_block(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    stopped = MetricsLog(tmp_path)
    stopped.close()  # nobody takes its lines any more
    written = [stopped.write((SERVER, MODEL)) for _ in range(WAITING_LIMIT + 3)]
    assert written == [True] * WAITING_LIMIT + [False] * 3
    log.close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        MetricsLog(tmp_path / "file")
