"""What comes from elsewhere on its way to disk."""

from pathlib import Path
from typing import NamedTuple

import pytest

from torchrelay.broker.archives.writing import DISK_RESERVE_BYTES, MEASURE_BYTES, write_bounded
from torchrelay.shared.errors import DownloadFailed
from torchrelay.shared.settings import BrokerSettings

SETTINGS = BrokerSettings(state_dir="/nowhere")


class Disk(NamedTuple):
    total: int
    free: int


def write(folder: Path, disk: Disk) -> None:
    chunks = [bytes(MEASURE_BYTES // 2)] * 3
    write_bounded(chunks, folder / "m", "http://x/m", SETTINGS, lambda: False, measure_disk=lambda _: disk)


def test_what_comes_from_elsewhere_does_not_fill_the_disk(tmp_path: Path) -> None:
    for disk in (Disk(1 << 40, DISK_RESERVE_BYTES - 1), Disk(1 << 30, (1 << 30) // 100 - 1)):
        with pytest.raises(DownloadFailed, match="bytes left"):
            write(tmp_path, disk)


def test_a_disk_with_some_room_takes_it_and_a_small_one_too(tmp_path: Path) -> None:
    for disk in (Disk(1 << 40, DISK_RESERVE_BYTES), Disk(64 << 20, 1 << 20)):
        write(tmp_path, disk)
