"""What comes from elsewhere on its way to disk, and how long it may take."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.broker.archives.writing import (
    DISK_RESERVE_BYTES,
    MEASURE_BYTES,
    DownloadPace,
    TooSlow,
    paced,
    write_bounded,
)
from torchrelay.shared.errors import DownloadFailed
from torchrelay.shared.settings import BrokerSettings

SETTINGS = BrokerSettings(state_dir="/nowhere")


def write(folder: Path, total: int, free: int) -> None:
    chunks = [bytes(MEASURE_BYTES // 2)] * 3
    disk = (total, total - free, free)
    write_bounded(chunks, folder / "m", "http://x/m", SETTINGS, lambda: False, measure_disk=lambda _: disk)


def test_what_comes_from_elsewhere_does_not_fill_the_disk(tmp_path: Path) -> None:
    for disk in ((1 << 40, DISK_RESERVE_BYTES - 1), (1 << 30, (1 << 30) // 100 - 1)):
        with pytest.raises(DownloadFailed, match="bytes left"):
            write(tmp_path, *disk)


def test_a_disk_with_some_room_takes_it_and_a_small_one_too(tmp_path: Path) -> None:
    for disk in ((1 << 40, DISK_RESERVE_BYTES), (64 << 20, 1 << 20)):
        write(tmp_path, *disk)


def test_silence_ends_a_download_after_the_grace() -> None:
    pace = DownloadPace(1000, 10)
    for _ in range(9):
        pace.count(1)
    with pytest.raises(TooSlow, match="download_min_bytes_per_s of 1000"):
        pace.count(1)


def test_what_came_fast_pays_for_no_trickle_later() -> None:
    pace = DownloadPace(1000, 10)
    pace.count(1, 10_000_000)
    for _ in range(9):
        pace.count(1, 1)
    with pytest.raises(TooSlow):
        pace.count(2, 1)


def test_a_slow_line_may_take_as_long_as_it_needs() -> None:
    pace = DownloadPace(1000, 10)
    for _ in range(100_000):
        pace.count(5, 5001)
    assert pace.left_s == 10


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 50_000)), max_size=50))
def test_the_whole_takes_no_longer_than_grace_and_size_by_rate(steps: list[tuple[float, int]]) -> None:
    pace, waited, size = DownloadPace(1000, 10), 0.0, 0
    for waited_s, count in steps:
        try:
            pace.count(waited_s, count)
        except TooSlow:
            break
        waited, size = waited + waited_s, size + count
        assert waited <= 10 + size / 1000 + 1e-6


def test_chunks_come_through_unchanged() -> None:
    assert b"".join(paced(iter([b"a", b"bc"]), DownloadPace(1, 10))) == b"abc"
