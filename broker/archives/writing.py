"""Writes to disk what comes from elsewhere: bounded, cancellable, and seen in the log while it lasts."""

import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from torchrelay.broker.models.origins import without_query
from torchrelay.shared import clock
from torchrelay.shared.errors import DownloadFailed
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
#: How often a download tells how far it is.
PROGRESS_INTERVAL_S = 5.0
#: Left free by what comes from elsewhere, or a hundredth of a small disk.
DISK_RESERVE_BYTES = 1 << 30
#: How often the disk is measured.
MEASURE_BYTES = 16 << 20


class DiskUsage(Protocol):
    """What shutil.disk_usage returns."""

    @property
    def total(self) -> int:
        """Return how many bytes it has."""

    @property
    def free(self) -> int:
        """Return how many of them anybody may use."""


def write_bounded(
    chunks: Iterable[bytes],
    target: Path,
    url: str,
    settings: BrokerSettings,
    is_cancelled: Callable[[], bool],
    *,
    measure_disk: Callable[[Path], DiskUsage] = shutil.disk_usage,
) -> None:
    """Write what comes from `url`. Raises DownloadFailed above the limit, or when the broker stops.

    Also before the disk is full: registrations and logs need some of it.
    """
    size = measured_at = 0
    told_at = clock.monotonic()
    with target.open("wb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > settings.download_limit_bytes:
                raise failed(
                    url, f"it is larger than download_limit_bytes of {settings.download_limit_bytes}"
                )
            if size - measured_at >= MEASURE_BYTES:
                measured_at = size
                disk = measure_disk(target.parent)
                if disk.free < min(disk.total // 100, DISK_RESERVE_BYTES):
                    raise failed(url, f"the disk of {target.parent} has only {disk.free} bytes left")
            if is_cancelled():
                raise failed(url, "the broker stops")
            file.write(chunk)
            if clock.monotonic() - told_at >= PROGRESS_INTERVAL_S:
                told_at = clock.monotonic()
                logger.info("download.progress", extra={"url": without_query(url), "done_bytes": size})


def failed(url: str, why: str) -> DownloadFailed:
    """Make TorchServe's error of a download."""
    return DownloadFailed(f"Failed to download archive from: {quoted(url)}", why)
