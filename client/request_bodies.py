"""Bodies of requests: bytes, JSON, files that are read as they are sent, and multipart forms of these.

A body knows its length where it can be known, and can be sent again unless it is read from what can't be
rewound. Reading files is all the I/O here.
"""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

import msgspec

from torchrelay.shared import ids

Buffer = bytes | bytearray | memoryview
#: What can be sent as it is: bytes, a file by its path, or an open file from where it stands.
Data = Buffer | os.PathLike[str] | BinaryIO
#: The parts of a form by their names; a text is a plain field.
Parts = Mapping[str, "Data | str"]

CHUNK_BYTES = 256 * 1024
JSON_TYPE = "application/json"
#: As browsers write names in the header of a part.
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


class FileContent(msgspec.Struct, frozen=True):
    """What a file holds, from where an open one stands; `length` is None where nobody knows."""

    source: Path | BinaryIO
    start: int
    length: int | None

    @property
    def name(self) -> str:
        """The file's name without its folder; "" for one without a name."""
        named = self.source if isinstance(self.source, Path) else getattr(self.source, "name", "")
        return os.path.basename(named) if isinstance(named, str | Path) else ""

    @property
    def is_rewindable(self) -> bool:
        """Whether it can be read once more."""
        return isinstance(self.source, Path) or self.source.seekable()

    def chunks(self) -> Iterator[bytes]:
        """Read it bit by bit, no further than its length."""
        left = self.length
        with self._opened() as file:
            while left is None or left > 0:
                chunk = file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
                if not chunk:
                    return
                if not isinstance(chunk, bytes):
                    raise TypeError("a file is sent as bytes: open it with mode 'rb'")
                left = None if left is None else left - len(chunk)
                yield chunk

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if isinstance(self.source, Path):
            with self.source.open("rb") as file:
                yield file
            return
        if self.source.seekable():
            self.source.seek(self.start)
        yield self.source


class RequestBody(msgspec.Struct, frozen=True):
    """What is sent with a request, piece by piece."""

    pieces: Sequence[Buffer | FileContent]
    content_type: str | None = None

    @property
    def length(self) -> int | None:
        """Its bytes; None where nobody knows."""
        total = 0
        for piece in self.pieces:
            length = piece.length if isinstance(piece, FileContent) else len(piece)
            if length is None:
                return None
            total += length
        return total

    @property
    def is_in_memory(self) -> bool:
        """Whether no file is read for it."""
        return not any(isinstance(piece, FileContent) for piece in self.pieces)

    @property
    def can_be_sent_again(self) -> bool:
        """Whether all of it can be read once more."""
        return all(piece.is_rewindable for piece in self.pieces if isinstance(piece, FileContent))

    def chunks(self) -> Generator[bytes, None, None]:
        """Return all of it, in chunks of a bounded size."""
        for piece in self.pieces:
            if isinstance(piece, FileContent):
                yield from piece.chunks()
            else:
                for at in range(0, len(piece), CHUNK_BYTES):
                    yield bytes(piece[at : at + CHUNK_BYTES])


def of_data(data: Data, content_type: str | None = None) -> RequestBody:
    """Send bytes or a file as they are; the type of a file is that of its name, unless it is said."""
    piece = _piece(data)
    if content_type is None and isinstance(piece, FileContent):
        content_type = _guessed_type(piece.name)
    return RequestBody([piece], content_type)


def of_json(value: object) -> RequestBody:
    """Send a value as JSON. Raises TypeError or ValueError for what JSON can't say, NaN among it."""
    text = dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return RequestBody([text.encode()], JSON_TYPE)


def of_parts(parts: Parts) -> RequestBody:
    """Send a form as TorchServe takes it: files have a name and a type, texts and bytes are plain fields."""
    boundary = ids.boundary()
    pieces: list[Buffer | FileContent] = []
    for name, data in parts.items():
        piece = data.encode() if isinstance(data, str) else _piece(data)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name.translate(_ESCAPES)}"'
        if isinstance(piece, FileContent):
            file_name = piece.name or name
            head += f'; filename="{file_name.translate(_ESCAPES)}"'
            head += f"\r\nContent-Type: {_guessed_type(file_name) or 'application/octet-stream'}"
        pieces += (f"{head}\r\n\r\n".encode(), piece, b"\r\n")
    pieces.append(f"--{boundary}--\r\n".encode())
    return RequestBody(pieces, f"multipart/form-data; boundary={boundary}")


def _piece(data: Data) -> Buffer | FileContent:
    if isinstance(data, bytes | bytearray):
        return data
    if isinstance(data, memoryview):
        return data.cast("B") if data.c_contiguous and data.nbytes else data.tobytes()
    if isinstance(data, os.PathLike):
        path = Path(data)
        status = path.stat()
        return FileContent(path, 0, status.st_size if S_ISREG(status.st_mode) else None)
    if isinstance(data, str):
        raise TypeError("a str may be a text or a path: say text.encode(), or Path(name)")
    if not hasattr(data, "read"):
        kind = type(data).__name__
        raise TypeError(f"a {kind} can't be sent as it is: json=... sends JSON, and infer() arrays")
    return _of_open_file(data)


def _of_open_file(file: BinaryIO) -> FileContent:
    if not file.seekable():
        return FileContent(file, 0, None)
    start = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(start)
    return FileContent(file, start, max(0, end - start))


def _guessed_type(name: str) -> str | None:
    from mimetypes import guess_type  # PERF: 2 ms, for files alone

    return guess_type(name)[0]
