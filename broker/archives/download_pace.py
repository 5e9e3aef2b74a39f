"""How long a download may take: a total that grows with its size, and a least rate. Pure but for `paced`."""

from collections.abc import Iterable, Iterator

from torchrelay.shared import clock
from torchrelay.shared.settings import BrokerSettings


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
