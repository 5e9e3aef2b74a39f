"""The file of what workers print, as TorchServe's model_log.log."""

import logging
from collections.abc import Mapping
from pathlib import Path

from torchrelay.shared import private_files
from torchrelay.shared.logs.log_file import LogFileHandler
from torchrelay.shared.logs.log_thread import BackgroundHandler
from torchrelay.shared.settings import DEFAULT_LOG_LIMITS, LogLimits
from torchrelay.shared.torchserve.torchserve_log import TorchServeFormatter


class ModelLog(BackgroundHandler):
    """Writes `2026-01-31T12:00:00,123 [INFO ] W-9000-m_1.0-stdout MODEL_LOG - text`, in local time.

    A line of stderr has `stderr` in its place, and is a warning.
    """

    def __init__(self, path: Path, limits: LogLimits = DEFAULT_LOG_LIMITS) -> None:
        private_files.make_folder(path.parent)
        super().__init__(LogFileHandler(path, limits))
        self.setFormatter(TorchServeFormatter("worker"))

    def write(self, facts: Mapping[str, object]) -> None:
        """Write the lines of a record `worker.output`."""
        self.emit(logging.makeLogRecord({**facts, "msg": "worker.output", "levelno": logging.INFO}))
