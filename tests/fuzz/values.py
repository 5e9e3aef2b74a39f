"""Values of any type that a message may have: most of them fit it, some lie at its limits or beyond.

Everything is drawn from one seeded generator, so that a seed repeats a run.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

#: What 64 bits of msgpack can say, and what lies around the limits of messages' fields.
INTEGERS = (0, 1, 2, 3, -1, 7, 255, 4096, 4097, 9000, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, 2**63,
            2**64 - 1, -(2**63))  # fmt: skip
FLOATS = (0.0, -1.5, 1e308, float("inf"), float("-inf"), float("nan"), 5e-324)
TEXTS = ("", "x", "m", "a/b", "../../etc/passwd", "cuda:0", "cuda:" + "9" * 5000, "\x1b[31m", "\n\0",
         "é" * 300, "\U0001f600", "y" * 9000, "1.0", "%s{0}$(id)")  # fmt: skip
LENGTHS = (0, 0, 1, 1, 1, 2, 3, 5)
#: Elements of a list that is meant to be too long, or to take long.
LONG = (300, 1025, 5000)


@dataclass
class Pool:
    """Values that mean something to the receiver, so that messages get further than its first look."""

    integers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class Values:
    """Draws values of types."""

    def __init__(self, rng: random.Random, pool: Pool) -> None:
        self._rng = rng
        self._pool = pool
        #: Of the message that is being drawn: long lists in long lists would take gigabytes to write.
        self._has_long = False

    def message(self, classes: Sequence[type[msgspec.Struct]]) -> msgspec.Struct:
        """Draw a message of one of the classes; its fields need not be in their ranges."""
        cls = self._rng.choice(classes)
        self._has_long = False
        made = self.of(msgspec.inspect.type_info(cls))
        assert isinstance(made, msgspec.Struct)
        return made

    def of(self, kind: msgspec.inspect.Type) -> object:
        """Draw a value of a type."""
        rng = self._rng
        match kind:
            case msgspec.inspect.LiteralType(values=values):
                return rng.choice(values)
            case msgspec.inspect.UnionType(types=types):
                return self.of(rng.choice(types))
            case msgspec.inspect.VarTupleType(item_type=item):
                return self._tuple(item)
            case msgspec.inspect.TupleType(item_types=items):
                return tuple(self.of(item) for item in items)
            case msgspec.inspect.DictType(key_type=key, value_type=value):
                return {self.of(key): self.of(value) for _ in range(rng.choice(LENGTHS))}
            case msgspec.inspect.StructType(cls=cls, fields=fields):
                return cls(**{one.name: self.of(one.type) for one in fields})
        return self._single(kind)

    def _single(self, kind: msgspec.inspect.Type) -> object:
        rng = self._rng
        match kind:
            case msgspec.inspect.IntType(ge=ge, le=le):
                return self._integer(ge, le)
            case msgspec.inspect.StrType():
                return self._text()
            case msgspec.inspect.BoolType():
                return rng.random() < 0.5
            case msgspec.inspect.FloatType():
                return rng.choice(FLOATS)
            case msgspec.inspect.BytesType():
                return rng.choice((b"", b"x", b"\x90", rng.randbytes(20)))
            case msgspec.inspect.NoneType():
                return None
        raise AssertionError(f"a message has a field of another type: {kind}")

    def _integer(self, least: int | None, most: int | None) -> int:
        rng = self._rng
        drawn = rng.random()
        if drawn < 0.5 and self._pool.integers:
            return rng.choice(self._pool.integers)
        if drawn < 0.9:
            low, high = -(2**63) if least is None else least, 2**64 if most is None else most
            fitting = [value for value in INTEGERS if low <= value <= high]
            return rng.choice(fitting)
        return rng.choice(INTEGERS)

    def _text(self) -> str:
        rng = self._rng
        if rng.random() < 0.8 and self._pool.texts:
            return rng.choice(self._pool.texts)
        return rng.choice(TEXTS)

    def _tuple(self, item: msgspec.inspect.Type) -> tuple[object, ...]:
        if not self._has_long and self._rng.random() < 0.02:
            self._has_long = True
            return (self.of(item),) * self._rng.choice(LONG)
        return tuple(self.of(item) for _ in range(self._rng.choice(LENGTHS)))


#: Heads of arrays, maps, texts and numbers that promise much.
PROMISES = (b"\xdd\xff\xff\xff\xff", b"\xdf\x00\x01\x00\x00", b"\xc7\x08\xff", b"\xcf" + b"\xff" * 8,
            b"\xd9\xff", b"\x91" * 600)  # fmt: skip


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Change some bytes: others in their place, some left out, repeated, or put in from elsewhere."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(made) + 1)
        match rng.randrange(4):
            case 0:
                made[at : at + 1] = rng.randbytes(1)
            case 1:
                del made[at : at + rng.choice((1, 2, 50))]
            case 2:
                made[at:at] = made[: rng.choice((1, 9, 40))]
            case 3:
                made[at : at + 1] = rng.choice(PROMISES)
    return bytes(made)
