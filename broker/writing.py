"""Writes to disk what comes from elsewhere: bounded, cancellable, and seen in the log while it lasts."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from torchrelay.broker.urls import without_query
from torchrelay.shared import clock
from torchrelay.shared.errors import DownloadFailed
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
#: How often a download tells how far it is.
PROGRESS_INTERVAL_S = 5.0


def write_bounded(
    chunks: Iterable[bytes],
    target: Path,
    url: str,
    settings: BrokerSettings,
    is_cancelled: Callable[[], bool],
) -> None:
    """Write what comes from `url`. Raises DownloadFailed above the limit, or when the broker stops."""
    size = 0
    told_at = clock.monotonic()
    with target.open("wb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > settings.download_limit_bytes:
                raise failed(
                    url, f"it is larger than download_limit_bytes of {settings.download_limit_bytes}"
                )
            if is_cancelled():
                raise failed(url, "the broker stops")
            file.write(chunk)
            if clock.monotonic() - told_at >= PROGRESS_INTERVAL_S:
                told_at = clock.monotonic()
                logger.info("download.progress", extra={"url": without_query(url), "done_bytes": size})


def failed(url: str, why: str) -> DownloadFailed:
    """Make TorchServe's error of a download."""
    return DownloadFailed(f"Failed to download archive from: {quoted(url)}", why)
