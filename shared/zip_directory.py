"""Counts a zip's entries without making anything of them.

What a zip says of their number can lie, so they are counted where zipfile would read them; what makes no
sense is not judged, zipfile will. Offsets are those of PKWARE's APPNOTE, 4.3.
"""

import io
import struct
from typing import IO

_END_MAGIC, _LARGE_END_MAGIC, _LOCATOR_MAGIC, _ENTRY_MAGIC = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2"
#: The end of the directory: magic, the directory's bytes; then what large zips have before it.
_END = struct.Struct("<4s8xI6x")
_LARGE_END = struct.Struct("<4s36xQ8x")
_LOCATOR = struct.Struct("<4s16x")
#: An entry: magic, and the bytes of its name, extra field and comment.
_ENTRY = struct.Struct("<4s24xHHH12x")
_COMMENT_LIMIT_BYTES = 1 << 16
#: Room for the names of an entry; a directory with more for each is one of nothing else.
_ENTRY_LIMIT_BYTES = 512


def has_more_entries_than(limit: int, file: IO[bytes]) -> bool:
    """Tell whether a zip has more entries, or a directory too large for so many."""
    start, length = _directory(file)
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


def _directory(file: IO[bytes]) -> tuple[int, int]:
    """Return where the directory begins and how long it is, (0, 0) where there is none."""
    size = file.seek(0, io.SEEK_END)
    tail_at = max(0, size - _COMMENT_LIMIT_BYTES - _END.size)
    file.seek(tail_at)
    tail = file.read()
    end = _find_end(tail)
    if end < 0:
        return 0, 0
    length = _END.unpack_from(tail, end)[1]
    stop = tail_at + end
    large_at = stop - _LOCATOR.size - _LARGE_END.size
    if large_at >= 0:
        file.seek(large_at)
        magic, large_length = _LARGE_END.unpack(file.read(_LARGE_END.size))
        (locator,) = _LOCATOR.unpack(file.read(_LOCATOR.size))
        if magic == _LARGE_END_MAGIC and locator == _LOCATOR_MAGIC:
            stop, length = large_at, large_length
    return (stop - length, length) if length <= stop else (0, 0)


def _find_end(tail: bytes) -> int:
    """Find the end of the directory as zipfile does: without a comment first, then the last of its kind."""
    plain = len(tail) - _END.size
    if plain >= 0 and tail[plain:].startswith(_END_MAGIC) and tail.endswith(b"\0\0"):
        return plain
    end = tail.rfind(_END_MAGIC)
    return end if end + _END.size <= len(tail) else -1
