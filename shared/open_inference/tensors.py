"""Tensors of the open inference protocol: their elements as values, or packed as the protocol packs them.

Packed is little-endian, in row-major order, with nothing between the elements; of BYTES each is preceded by
its length, a whole number of 4 bytes.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import prod

from torchrelay.shared.open_inference.datatypes import BF16, BYTES, DATATYPES, Datatype
from torchrelay.shared.quoting import quoted

Buffer = bytes | bytearray | memoryview
Parameters = dict[str, object]

#: As many as every numpy has.
DIMENSIONS_LIMIT = 32
#: Of all dimensions but zeros multiplied by an element's size: what can be addressed.
SIZE_LIMIT_BYTES = 2**63 - 1
#: The most that an element takes in an array; one of BYTES is a pointer there.
ELEMENT_LIMIT_BYTES = 8
_LENGTH = struct.Struct("<I")


class TensorError(ValueError):
    """What is wrong with a tensor, or with a message of tensors; for whoever has made it."""


@dataclass(slots=True)
class Tensor:
    """A named tensor. Its data are packed, or its values in a list, which may be nested as its shape says."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: Buffer | list[object]
    parameters: Parameters = field(default_factory=dict)

    @property
    def kind(self) -> Datatype:
        """The type of its elements. Raises TensorError where the protocol has none of this name."""
        kind = DATATYPES.get(self.datatype)
        if kind is None:
            raise TensorError(f"{self}: the datatype is {quoted(self.datatype)}, not one of {_NAMES}.")
        return kind

    @property
    def count(self) -> int:
        """How many elements its shape has. Raises TensorError for a shape that no tensor has."""
        if len(self.shape) > DIMENSIONS_LIMIT:
            raise TensorError(f"{self}: the shape has more than {DIMENSIONS_LIMIT} dimensions.")
        if any(one < 0 for one in self.shape):
            raise TensorError(f"{self}: the shape {_said(self.shape)} has a negative dimension.")
        if prod(one for one in self.shape if one) * ELEMENT_LIMIT_BYTES > SIZE_LIMIT_BYTES:
            raise TensorError(f"{self}: no memory holds the shape {_said(self.shape)}.")
        return prod(self.shape)

    @property
    def is_packed(self) -> bool:
        """Whether its data are packed."""
        return not isinstance(self.data, list)

    def packed(self) -> Buffer:
        """Return its data packed; what is packed already is not copied. Raises TensorError."""
        count = self.count
        if isinstance(self.data, list):
            return _pack(self, _flat(self, self.data, count))
        self._require_whole(self.data, count)
        return self.data

    def values(self) -> list[object]:
        """Return its elements in a list that is not nested; those of BYTES that were packed are bytes.

        Raises TensorError.
        """
        count = self.count
        if isinstance(self.data, list):
            return _flat(self, self.data, count)
        kind = self.kind
        if kind is BYTES:
            return _split_bytes(self, memoryview(self.data), count)
        self._require_whole(self.data, count)
        if kind is BF16:
            return list(struct.unpack(f"<{count}f", widened(self.data)))
        return list(struct.unpack(f"<{count}{kind.letter}", self.data))

    def _require_whole(self, data: Buffer, count: int) -> None:
        """Raise TensorError for packed data that aren't what the shape says; of BYTES only values tell."""
        kind = self.kind
        if kind is not BYTES and len(data) != count * kind.size:
            raise TensorError(
                f"{self}: {len(data)} bytes of data, and {kind.name} of the shape {_said(self.shape)} "
                f"has {count * kind.size}."
            )
        if kind.letter == "?" and bytes(data).strip(b"\0\1"):
            raise TensorError(f"{self}: a byte of BOOL is neither 0 nor 1.")

    def __str__(self) -> str:
        return f"Tensor {quoted(repr(self.name))}"


_NAMES = ", ".join(DATATYPES)


def widened(packed: Buffer) -> bytearray:
    """Make BF16 FP32, which has all its values."""
    wide = bytearray(2 * len(packed))
    wide[2::4] = packed[::2]
    wide[3::4] = packed[1::2]
    return wide


def pack_bytes(elements: Sequence[object]) -> bytes:
    """Pack elements of BYTES; texts are UTF-8. Raises TypeError and ValueError for what is neither."""
    parts: list[Buffer] = []
    for one in elements:
        element = one.encode() if isinstance(one, str) else one
        if not isinstance(element, bytes | bytearray | memoryview):
            raise TypeError(f"a {type(one).__name__} is neither bytes nor a text")
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)


def _pack(tensor: Tensor, values: list[object]) -> bytes:
    kind = tensor.kind
    try:
        if kind is BYTES:
            return pack_bytes(values)
        if kind.letter == "?" and not all(isinstance(one, bool) for one in values):
            raise TypeError("not all of them are true or false")
        if kind is BF16:
            return _narrowed(struct.pack(f"<{len(values)}f", *values))
        return struct.pack(f"<{len(values)}{kind.letter}", *values)
    except (struct.error, TypeError, ValueError, OverflowError) as error:
        raise TensorError(f"{tensor}: its values are not of {kind.name}: {quoted(error)}") from error


def _narrowed(packed: bytes) -> bytes:
    """Make FP32 BF16, rounded to the nearest, and to even ones in between."""
    wide = struct.unpack(f"<{len(packed) // 4}I", packed)
    return struct.pack(
        f"<{len(wide)}H",
        *(
            # What stands for no number has to go on doing so.
            one >> 16 | 0x40 if one & 0x7FFFFFFF > 0x7F800000 else one + 0x7FFF + (one >> 16 & 1) >> 16
            for one in wide
        ),
    )


def _flat(tensor: Tensor, data: list[object], count: int) -> list[object]:
    """Return values as they are, or, if they are nested, row by row. Raises TensorError."""
    values, depth = data, 1
    while values and isinstance(values[0], list):
        if depth >= len(tensor.shape):
            raise TensorError(f"{tensor}: its data are nested deeper than its shape {_said(tensor.shape)}.")
        length = tensor.shape[depth]
        if not all(isinstance(row, list) and len(row) == length for row in values):
            raise TensorError(
                f"{tensor}: its data are nested, and not as its shape {_said(tensor.shape)} is."
            )
        values = list(chain.from_iterable(values))  # type: ignore[arg-type]  # lists, as has just been seen
        depth += 1
    if len(values) != count:
        raise TensorError(f"{tensor}: {len(values)} values, and the shape {_said(tensor.shape)} has {count}.")
    return values


def _split_bytes(tensor: Tensor, packed: memoryview, count: int) -> list[object]:
    """Take packed elements of BYTES apart; as many as there are, whatever the shape claims."""
    elements: list[object] = []
    at, end = 0, len(packed)
    while at < end and len(elements) < count:
        start = at + _LENGTH.size
        if start > end:
            raise TensorError(f"{tensor}: {end - at} bytes are left where a length of 4 bytes should be.")
        (length,) = _LENGTH.unpack_from(packed, at)
        at = start + length
        if at > end:
            raise TensorError(f"{tensor}: an element of {length} bytes, and {end - start} bytes are left.")
        elements.append(bytes(packed[start:at]))
    if len(elements) != count or at < end:
        raise TensorError(
            f"{tensor}: the shape {_said(tensor.shape)} has {count} elements, and its data have "
            f"{len(elements)}{' and more' if at < end else ''}."
        )
    return elements


def _said(shape: Sequence[int]) -> str:
    return quoted(list(shape))
