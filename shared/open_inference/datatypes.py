"""The protocol's types of elements: how many bytes each takes, and how those are read."""

from typing import NamedTuple


class Datatype(NamedTuple):
    """A type of elements; of BYTES they have no size that all of them share."""

    name: str
    size: int
    #: `struct`'s letter for an element; "" where it has none.
    letter: str
    #: numpy's name of an array of them; BF16 is no type of numpy's, and has arrays of the next larger one.
    numpy: str


BYTES = Datatype("BYTES", 0, "", "object")
#: The upper half of an FP32. It is not the protocol's own, but of servers and clients that speak it.
BF16 = Datatype("BF16", 2, "", "float32")
DATATYPES = {
    one.name: one
    for one in (
        Datatype("BOOL", 1, "?", "bool"),
        Datatype("UINT8", 1, "B", "uint8"),
        Datatype("UINT16", 2, "H", "uint16"),
        Datatype("UINT32", 4, "I", "uint32"),
        Datatype("UINT64", 8, "Q", "uint64"),
        Datatype("INT8", 1, "b", "int8"),
        Datatype("INT16", 2, "h", "int16"),
        Datatype("INT32", 4, "i", "int32"),
        Datatype("INT64", 8, "q", "int64"),
        Datatype("FP16", 2, "e", "float16"),
        BF16,
        Datatype("FP32", 4, "f", "float32"),
        Datatype("FP64", 8, "d", "float64"),
        BYTES,
    )
}
