"""Writes to disk what comes from elsewhere: bounded in size and time, cancellable, and seen in the log.

A download's time is a total that grows with its size, and a least rate.
"""

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

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


def write_bounded(
    chunks: Iterable[bytes],
    target: Path,
    url: str,
    settings: BrokerSettings,
    is_cancelled: Callable[[], bool],
    *,
    measure_disk: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage,
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
                total, _, free = measure_disk(target.parent)
                if free < min(total // 100, DISK_RESERVE_BYTES):
                    raise failed(url, f"the disk of {target.parent} has only {free} bytes left")
            if is_cancelled():
                raise failed(url, "the broker stops")
            file.write(chunk)
            if clock.monotonic() - told_at >= PROGRESS_INTERVAL_S:
                told_at = clock.monotonic()
                logger.info("download.progress", extra={"url": without_query(url), "done_bytes": size})


def failed(url: str, why: str) -> DownloadFailed:
    """Make TorchServe's error of a download."""
    return DownloadFailed(f"Failed to download archive from: {quoted(url)}", why)


class TooSlow(Exception):
    """An origin that sends less than the least rate."""


class DownloadPace:
    """Time that is left to an origin: waiting spends it, bytes of the archive earn it.

    Never more is left than `grace_s`, so that what came fast at first pays for no trickle later; the whole
    takes `grace_s` and the size by the rate at most. Our own time, such as for writing, isn't counted.
    """

    def __init__(self, bytes_per_s: float, grace_s: float) -> None:
        self._bytes_per_s, self._grace_s = bytes_per_s, grace_s
        self.left_s = grace_s

    def count(self, waited_s: float, size: int = 0) -> None:
        """Take note of a wait, and of bytes. Raises TooSlow when no time is left."""
        left_s = self.left_s - waited_s + size / self._bytes_per_s
        self.left_s = min(self._grace_s, left_s)
        if self.left_s <= 0:
            raise TooSlow(
                f"it sends less than download_min_bytes_per_s of {self._bytes_per_s:.0f},"
                f" or nothing for download_grace_s of {self._grace_s:g}"
            )


def pace_of(settings: BrokerSettings) -> DownloadPace:
    """Begin a download's time."""
    return DownloadPace(settings.download_min_bytes_per_s, settings.download_grace_s)


def paced(chunks: Iterable[bytes], pace: DownloadPace) -> Iterator[bytes]:
    """Pass chunks on, and count how long each one was waited for. Raises TooSlow."""
    waiting = iter(chunks)
    while True:
        began = clock.monotonic()
        chunk = next(waiting, b"")
        if not chunk:
            return
        pace.count(clock.monotonic() - began, len(chunk))
        yield chunk
