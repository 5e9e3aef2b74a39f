"""Counts a zip's entries without making anything of them.

What a zip says of their number can lie, so they are counted where zipfile would read them; what makes no
sense is not judged, zipfile will. Where that is has changed with Python's releases, so a zip must stand
every way to read it. Offsets are those of PKWARE's APPNOTE, 4.3.
"""

import io
import struct
from collections.abc import Iterator
from typing import IO

_END_MAGIC, _LARGE_END_MAGIC, _LOCATOR_MAGIC, _ENTRY_MAGIC = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2"
#: The end of the directory: magic, the directory's bytes; then what large zips have before it.
_END = struct.Struct("<4s8xI6x")
_LARGE_END = struct.Struct("<4s36xQ8x")
#: The other's magic and place.
_LOCATOR = struct.Struct("<4s4xQ4x")
#: An entry: magic, and the bytes of its name, extra field and comment.
_ENTRY = struct.Struct("<4s24xHHH12x")
#: Stands for a length that only the large form has room for.
_ELSEWHERE = 0xFFFFFFFF
_COMMENT_LIMIT_BYTES = 1 << 16
#: Room for the names of an entry; a directory with more for each is one of nothing else.
_ENTRY_LIMIT_BYTES = 512


def has_more_entries_than(limit: int, file: IO[bytes]) -> bool:
    """Tell whether a zip has more entries, or a directory too large for so many."""
    return any(_is_above(limit, file, start, length) for start, length in _directories(file))


def _is_above(limit: int, file: IO[bytes], start: int, length: int) -> bool:
    if length > limit * _ENTRY_LIMIT_BYTES:
        return True
    file.seek(start)
    directory = file.read(length)
    at = entries = 0
    while at + _ENTRY.size <= len(directory) and entries <= limit:
        magic, *lengths = _ENTRY.unpack_from(directory, at)
        if magic != _ENTRY_MAGIC:
            break
        at += _ENTRY.size + sum(lengths)
        entries += 1
    return entries > limit


def _directories(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Yield where the directory may begin and how long it is then; nothing where there is none."""
    size = file.seek(0, io.SEEK_END)
    tail_at = max(0, size - _COMMENT_LIMIT_BYTES - _END.size)
    file.seek(tail_at)
    tail = file.read()
    end = _find_end(tail)
    if end < 0:
        return
    length = _END.unpack_from(tail, end)[1]
    stop = tail_at + end
    ends = _large_ends(file, stop)
    if length != _ELSEWHERE or stop - _LOCATOR.size - _LARGE_END.size not in ends:
        ends[stop] = length
    for stop, length in ends.items():
        if length <= stop:
            yield stop - length, length


def _large_ends(file: IO[bytes], end: int) -> dict[int, int]:
    """Return where the large form's end stands, and how long it says the directory before it is.

    Python looked for it right before its locator; since CVE-2025-8291 it looks where that says, and right
    before it only if there is none.
    """
    before = end - _LOCATOR.size - _LARGE_END.size
    if before < 0:
        return {}
    file.seek(end - _LOCATOR.size)
    magic, said = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if magic != _LOCATOR_MAGIC:
        return {}
    found = {}
    for at in (before, min(said, before)):
        file.seek(at)
        magic, length = _LARGE_END.unpack(file.read(_LARGE_END.size))
        if magic == _LARGE_END_MAGIC:
            found[at] = length
    return found


def _find_end(tail: bytes) -> int:
    """Find the end of the directory as zipfile does: without a comment first, then the last of its kind."""
    plain = len(tail) - _END.size
    if plain >= 0 and tail[plain:].startswith(_END_MAGIC) and tail.endswith(b"\0\0"):
        return plain
    end = tail.rfind(_END_MAGIC)
    return end if end + _END.size <= len(tail) else -1
