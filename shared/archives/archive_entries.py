"""An archive's entries, checked before anything is made of them.

Archives are not trusted: an entry has a path below the model's folder that any disk can have, is a file
or a folder, and no more is read than the limits below allow. Servers read archives in processes of their own,
see `reader`, which bounds whatever is missed here; what is found here is said in words.
"""

import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from torchrelay.shared.archives import tar_headers, zip_directory
from torchrelay.shared.errors import InvalidModel
from torchrelay.shared.quoting import quoted

#: An archive with vendored dependencies has some ten thousand files; inodes run out before this hurts.
ENTRY_LIMIT = 100_000
#: The largest single-host models are a few hundred GB; more is a mistake or an attack on the disk.
TOTAL_LIMIT_BYTES = 1 << 40
#: Code and text shrink to a tenth, weights hardly; deflate's best, on nothing but zeros, is 1032.
RATIO_LIMIT = 100
#: Below this size the ratio says nothing: a small archive of repeated text may well exceed it.
RATIO_FLOOR_BYTES = 256 << 20
#: Linux's bound of a name. Paths begin below folders of our own, and need room for those; what is deeper
#: than this is deeper than Python's own functions go.
NAME_LIMIT_BYTES, PATH_LIMIT_BYTES, DEPTH_LIMIT = 255, 2048, 100
COPY_BYTES = 1 << 20

_ZIP_MAGIC = b"PK"
_GZIP_MAGIC = b"\x1f\x8b"
#: What Python's readers raise for an archive that is broken.
BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    # Numbers that lead nowhere.
    ValueError,
    OverflowError,
    struct.error,
)


class ArchiveEntry(msgspec.Struct, frozen=True):
    """A checked entry: its path below the model's folder; `open` gives a file's content."""

    path: PurePosixPath
    size: int
    open: Callable[[], AbstractContextManager[IO[bytes]]] | None
    is_executable: bool = False


def checked_entries(path: Path) -> Iterator[ArchiveEntry]:
    """Yield every entry, checked against the paths and limits; a tar's content must be read in turn."""
    with path.open("rb") as file:
        magic = file.read(2)
    if magic == _GZIP_MAGIC:
        found = _tar_entries(path)
    elif magic == _ZIP_MAGIC:
        found = _zip_entries(path)
    else:
        raise zipfile.BadZipFile("File is neither a zip nor a gzipped tar")
    #: Paths to whether they are folders.
    kinds: dict[str, bool] = {}
    for entry in found:
        _check_kind(str(entry.path), entry.open is None, kinds)
        yield entry


def _check_kind(path: str, is_folder: bool, kinds: dict[str, bool]) -> None:
    """Raise InvalidModel for what is a file in one place and a folder in another."""
    if kinds.setdefault(path, is_folder) is not is_folder:
        raise InvalidModel(f"The archive's entry {quoted(path)!r} is both a file and a folder.")
    while path := path.rpartition("/")[0]:
        is_known = path in kinds
        if not kinds.setdefault(path, True):
            raise InvalidModel(f"The archive's entry {quoted(path)!r} is both a file and a folder.")
        if is_known:
            return  # and so is what it lies in


def _zip_entries(path: Path) -> Iterator[ArchiveEntry]:
    budget = _Budget(path.stat().st_size)
    with path.open("rb") as plain:
        # zipfile makes an object of each before it tells how many there are: 8 s for a million.
        if zip_directory.has_more_entries_than(ENTRY_LIMIT, plain):
            raise InvalidModel(f"The archive has more than {ENTRY_LIMIT} entries.")
    with zipfile.ZipFile(path) as file:
        # All before the first is used: the directory at the end of a zip knows every size and name.
        checked = [_zip_entry(file, info, budget) for info in file.infolist()]
        yield from (entry for entry in checked if entry is not None)


def _zip_entry(file: zipfile.ZipFile, info: zipfile.ZipInfo, budget: "_Budget") -> ArchiveEntry | None:
    mode = info.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InvalidModel(
            f"The archive's entry {quoted(info.filename)!r} is a link or a device, not a file."
        )
    if info.flag_bits & 1:
        raise InvalidModel(f"The archive's entry {quoted(info.filename)!r} is encrypted.")
    path = safe_path(info.filename)
    budget.spend(info.file_size)
    if not path.parts:
        return None
    opener = None if info.is_dir() else lambda: file.open(info)
    return ArchiveEntry(path, info.file_size, opener, bool(mode & 0o111))


def _tar_entries(path: Path) -> Iterator[ArchiveEntry]:
    budget = _Budget(path.stat().st_size)
    with gzip.open(path) as plain, tarfile.open(fileobj=_Bounded(plain, budget), mode="r|") as tar:
        for member in tar:
            if not (member.isfile() or member.isdir()):
                raise InvalidModel(
                    f"The archive's entry {quoted(member.name)!r} is a link or a device, not a file."
                )
            # Before tarfile reads on to the next header, through all that this one announces.
            budget.spend(member.size)
            safe_path(member.name)
            # The text up to the first slash, as TorchServe does: `./MAR-INF/...` keeps its MAR-INF.
            inner = safe_path(member.name.partition("/")[2])
            if inner.parts:
                opener = _tar_opener(tar, member) if member.isfile() else None
                yield ArchiveEntry(inner, member.size, opener, bool(member.mode & 0o111))


def _tar_opener(
    tar: tarfile.TarFile, member: tarfile.TarInfo
) -> Callable[[], AbstractContextManager[IO[bytes]]]:
    return lambda: closing(tar.extractfile(member) or io.BytesIO())


class _Budget:
    """What an archive may still unpack to."""

    def __init__(self, packed_bytes: int) -> None:
        self._entries = 0
        self._total = 0
        self.limit_bytes = min(TOTAL_LIMIT_BYTES, max(RATIO_FLOOR_BYTES, RATIO_LIMIT * packed_bytes))

    def spend(self, size: int) -> None:
        """Count one entry. Raises InvalidModel above a limit."""
        self._entries += 1
        self._total += size
        if self._entries > ENTRY_LIMIT:
            raise InvalidModel(f"The archive has more than {ENTRY_LIMIT} entries.")
        if self._total > self.limit_bytes:
            raise InvalidModel(
                f"The archive would unpack to more than {self.limit_bytes} bytes; the limits are "
                f"{RATIO_LIMIT} times its size, and {TOTAL_LIMIT_BYTES} bytes in all."
            )


class _Bounded(io.RawIOBase):
    """A gzip stream that ends in InvalidModel where even a tar's headers would exceed the budget."""

    def __init__(self, plain: gzip.GzipFile, budget: _Budget) -> None:
        self._plain = plain
        self._headers = tar_headers.HeaderCheck(TOTAL_LIMIT_BYTES)
        # Headers and padding of the largest number of entries come on top of the content.
        self._left = budget.limit_bytes + ENTRY_LIMIT * tarfile.BLOCKSIZE * 2

    def read(self, size: int = -1) -> bytes:
        """Read as a file does."""
        data = self._plain.read(min(size, COPY_BYTES) if size >= 0 else COPY_BYTES)
        self._left -= len(data)
        if self._left < 0:
            raise InvalidModel("The archive's tar is larger than what its entries may unpack to.")
        self._headers.feed(data)
        return data


def safe_path(name: str) -> PurePosixPath:
    """Return an entry's path. Raises InvalidModel where it leaves its folder, or no disk could have it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise InvalidModel(f"The archive's entry {quoted(name)!r} points outside of the model's folder.")
    lengths = [len(os.fsencode(part)) for part in path.parts]
    if (
        len(lengths) > DEPTH_LIMIT
        or max(lengths, default=0) > NAME_LIMIT_BYTES
        or sum(lengths) > PATH_LIMIT_BYTES
    ):
        raise InvalidModel(
            f"The archive's entry {quoted(name)!r} is too long: the limits are {DEPTH_LIMIT} folders,"
            f" {NAME_LIMIT_BYTES} bytes in one name and {PATH_LIMIT_BYTES} in all."
        )
    return path
