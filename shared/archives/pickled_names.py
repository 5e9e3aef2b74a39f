"""Names of classes and functions that a file of weights refers to, read without loading it. Pure."""

import io
import itertools
import pickletools
import struct
from collections.abc import Iterator
from typing import IO

#: Those of a large model have some ten thousand.
OPERATIONS_LIMIT = 2_000_000
NAMES_LIMIT = 100
_ZIP_MAGIC = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
#: Before torch 1.6, three small pickles stood before that of the object.
_PICKLES_LIMIT = 4
_TEXT_OPERATIONS = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})


def names_in(file: IO[bytes]) -> tuple[str, ...]:
    """Return the names, `MODULE.NAME`, sorted; none for a file that `torch.save` hasn't written.

    Of a zip only its first file is read, which is where `torch.save` puts the pickle.
    """
    buffered = io.BufferedReader(file)  # type: ignore[type-var]  # typeshed wants a raw file; any that reads does
    found: set[str] = set()
    try:
        if buffered.peek(4)[:4] == _ZIP_MAGIC:
            if _skip_header(buffered).endswith("data.pkl"):
                found.update(_names(buffered))
        elif buffered.peek(1)[:1] == b"\x80":
            for _ in range(_PICKLES_LIMIT):
                found.update(_names(buffered))
    except (ValueError, EOFError, struct.error, IndexError, OverflowError):
        pass  # no pickle, or a broken one: what loads it says so
    return tuple(sorted(found)[:NAMES_LIMIT])


def _skip_header(file: IO[bytes]) -> str:
    *_, name_size, extra_size = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    name = file.read(name_size).decode("utf-8", "replace")
    file.read(extra_size)
    return name


def _names(file: IO[bytes]) -> Iterator[str]:
    texts: list[str] = ["", ""]
    for operation, argument, _ in itertools.islice(pickletools.genops(file), OPERATIONS_LIMIT):
        if operation.name == "GLOBAL":
            yield str(argument).replace(" ", ".")
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif operation.name in _TEXT_OPERATIONS:
            texts = [texts[-1], str(argument)]
