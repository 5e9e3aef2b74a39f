"""The file of what workers print."""

import re
from pathlib import Path

import pytest

from torchrelay.worker.node.model_log import ModelLog


@pytest.mark.parametrize(("stream", "level"), [("stdout", "INFO "), ("stderr", "WARN ")])
def test_a_line_looks_as_in_torchserves_model_log(tmp_path: Path, stream: str, level: str) -> None:
    path = tmp_path / "logs" / "model_log.log"
    log = ModelLog(path)
    log.write({"worker": 9000, "model": "m", "version": "1.0", "stream": stream, "lines": ["hello", "again"]})
    log.close()
    line = rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{{3}} \[{level}\] W-9000-m_1.0-{stream} MODEL_LOG - "
    assert re.fullmatch(f"{line}hello\n{line}again\n", path.read_text())
