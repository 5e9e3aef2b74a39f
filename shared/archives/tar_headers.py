"""Checks a tar's headers as they come, before anything is made of them. No I/O here.

Python's reader believes what a header says: names without end, sizes below zero, sparse files whose map takes
minutes to read. Here a header has one of few kinds and a size that can be meant. Layouts are those of POSIX's
pax and of GNU tar; what makes no sense at all is the reader's to refuse, as it does for a tar cut short.
"""

import re
import tarfile

from torchrelay.shared.errors import InvalidModel
from torchrelay.shared.quoting import quoted

#: A name has at most 4 KiB on Linux; what comes along, such as attributes of macOS, has little more.
EXTENSION_LIMIT_BYTES = 64 << 10
#: Headers that say more of the next entry: one of each kind, twice where tars were joined.
EXTENSIONS_LIMIT = 8
#: Headers that say more of all entries; `git archive` writes one.
GLOBALS_LIMIT = 8

_BLOCK = tarfile.BLOCKSIZE
#: Before 3.11.10 Python looks for numbers in a time that grows with the square of their length.
_LONG_NUMBER = re.compile(rb"\d{400}")
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_RECORDS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENSIONS = (*_RECORDS, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class HeaderCheck:
    """Follows a tar from its first byte on; an entry's content is passed over."""

    def __init__(self, size_limit_bytes: int) -> None:
        self._size_limit_bytes = size_limit_bytes
        #: Bytes of content and padding before the next header.
        self._to_pass = 0
        #: The header, or what an extension says, as far as it has come; `_wanted` bytes make it whole.
        self._held = bytearray()
        self._wanted = _BLOCK
        #: Kind and length of the extension that is being held; None while it is a header.
        self._extension: tuple[bytes, int] | None = None
        self._extensions = self._globals = 0
        #: The next entry's size, if an extension says it.
        self._size: int | None = None
        self._is_over = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises InvalidModel for a header that isn't to be read, TarError if broken."""
        at = 0
        while at < len(data) and not self._is_over:
            if self._to_pass:
                passed = min(self._to_pass, len(data) - at)
                self._to_pass -= passed
                at += passed
                continue
            part = data[at : at + self._wanted - len(self._held)]
            self._held += part
            at += len(part)
            if len(self._held) == self._wanted:
                block = bytes(self._held)
                self._held.clear()
                self._wanted = _BLOCK
                if self._extension is None:
                    self._take_header(block)
                else:
                    self._take_extension(block)

    def _take_header(self, block: bytes) -> None:
        if not any(block):
            self._is_over = True  # whatever follows is not read
            return
        kind = block[156:157]
        name = block[:100].partition(b"\0")[0]
        shown = repr(quoted(name.decode(errors="replace")))
        size = _number(block[124:136])
        if not 0 <= size <= self._size_limit_bytes:
            raise InvalidModel(f"The archive's entry {shown} says that it has {size} bytes.")
        if kind in _EXTENSIONS:
            self._begin_extension(kind, size)
            return
        if kind == tarfile.GNUTYPE_SPARSE:
            raise InvalidModel(f"The archive's entry {shown} is a sparse file, which is not read.")
        if kind not in _FILES and kind != tarfile.DIRTYPE:
            raise InvalidModel(f"The archive's entry {shown} is a link or a device, not a file.")
        is_folder = kind == tarfile.DIRTYPE or (kind == tarfile.AREGTYPE and name.endswith(b"/"))
        self._to_pass = 0 if is_folder else _padded(size if self._size is None else self._size)
        self._extensions, self._size = 0, None

    def _begin_extension(self, kind: bytes, size: int) -> None:
        self._extensions += 1
        self._globals += kind == tarfile.XGLTYPE
        if self._extensions > EXTENSIONS_LIMIT or self._globals > GLOBALS_LIMIT:
            raise InvalidModel("The archive has more headers before an entry than any tar needs.")
        if size > EXTENSION_LIMIT_BYTES:
            raise InvalidModel(
                f"The archive has a name or header of {size} bytes; the limit is {EXTENSION_LIMIT_BYTES}."
            )
        if size:
            self._extension = (kind, size)
            self._wanted = _padded(size)

    def _take_extension(self, block: bytes) -> None:
        assert self._extension is not None
        kind, length = self._extension
        self._extension = None
        if kind not in _RECORDS:
            return
        for key, value in _records(block[:length]):
            if key.startswith(b"GNU.sparse"):
                raise InvalidModel("The archive has a sparse file, which is not read.")
            if key != b"size":
                continue
            if (
                kind == tarfile.XGLTYPE
                or not value.isdigit()
                or len(value) > len(str(self._size_limit_bytes))
            ):
                raise InvalidModel(f"The archive has an entry of {quoted(value.decode('latin-1'))!r} bytes.")
            self._size = int(value)
            if self._size > self._size_limit_bytes:
                raise InvalidModel(f"The archive has an entry of {self._size} bytes.")


def _records(content: bytes) -> list[tuple[bytes, bytes]]:
    """Split what a pax header says; each record is `LENGTH KEY=VALUE` and a newline. Raises TarError."""
    if _LONG_NUMBER.search(content):
        raise InvalidModel("The archive has a header with a number that nothing needs.")
    found = []
    at = 0
    while at < len(content) and content[at]:
        digits, space, _ = content[at : at + 8].partition(b" ")
        end = at + int(digits) if space and digits.isdigit() else 0
        key, equals, value = content[at + len(digits) + 1 : end].partition(b"=")
        if not equals or end > len(content) or content[end - 1 : end] != b"\n":
            raise tarfile.ReadError("invalid extended header")
        found.append((key, value[:-1]))
        at = end
    return found


def _number(field: bytes) -> int:
    """Read a number, octal or base-256. Raises TarError."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    digits = field.partition(b"\0")[0].strip()
    if digits.translate(None, b"01234567"):
        raise tarfile.ReadError("invalid header")
    return int(digits or b"0", 8)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
