"""Tensors pack and unpack without a loss, and what is no tensor is refused in words."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared.open_inference.datatypes import DATATYPES
from torchrelay.shared.open_inference.tensors import DIMENSIONS_LIMIT, Tensor, TensorError, pack_bytes

BITS = {f"{sign}INT{bits}": (sign, bits) for sign in ("", "U") for bits in (8, 16, 32, 64)}
WIDTHS = {"FP16": 16, "FP32": 32, "FP64": 64}


def values_of(datatype: str) -> st.SearchStrategy[Any]:
    """Any value that a type has, but for what is unlike itself."""
    if datatype in BITS:
        sign, bits = BITS[datatype]
        least, most = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return st.integers(least, most)
    if datatype in WIDTHS:
        return st.floats(width=WIDTHS[datatype], allow_nan=False)  # type: ignore[arg-type]
    if datatype == "BF16":
        return st.integers(0, 2**16 - 1).map(_wide).filter(lambda one: one == one)
    return st.booleans() if datatype == "BOOL" else st.binary(max_size=20)


def _wide(half: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", half << 16))[0])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    rows, columns = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    count = rows * columns
    data = draw(st.lists(values_of(datatype), min_size=count, max_size=count))
    is_nested = draw(st.booleans()) and columns
    nested: list[object] = [data[at : at + columns] for at in range(0, count, columns or 1)]
    return Tensor(draw(st.text(max_size=5)), datatype, (rows, columns), nested if is_nested else data)


@given(tensors())
def test_what_is_packed_unpacks_to_the_same_values(tensor: Tensor) -> None:
    packed = Tensor(tensor.name, tensor.datatype, tensor.shape, tensor.packed())
    assert packed.is_packed
    assert not tensor.is_packed
    assert packed.values() == tensor.values()
    assert packed.packed() is packed.data


@given(st.sampled_from(sorted(DATATYPES)), st.lists(st.integers(-1, 5), max_size=4), st.binary(max_size=64))
def test_whatever_comes_is_a_tensor_or_an_error(datatype: str, shape: list[int], data: bytes) -> None:
    tensor = Tensor("x", datatype, shape, data)
    try:
        values = tensor.values()
    except TensorError:
        return
    assert len(values) == tensor.count


@given(st.binary(max_size=40), st.integers(0, 6))
def test_bytes_are_taken_apart_exactly_or_not_at_all(data: bytes, count: int) -> None:
    try:
        elements = Tensor("x", "BYTES", [count], data).values()
    except TensorError:
        return
    assert pack_bytes(elements) == data


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP31", [1], b"1234", "the datatype is FP31, not one of BOOL, "),
        ("FP32", [2], b"1234", "4 bytes of data, and FP32 of the shape [2] has 8."),
        ("FP32", [], b"", "0 bytes of data, and FP32 of the shape [] has 4."),
        ("FP32", [2, -1], b"", "the shape [2, -1] has a negative dimension"),
        ("FP32", [2**62, 2**62], b"", "no memory holds the shape"),
        ("INT64", [0, 2**62], b"", "no memory holds the shape"),
        ("INT8", [1] * (DIMENSIONS_LIMIT + 1), b"1", "more than 32 dimensions"),
        ("BOOL", [2], b"\1\2", "a byte of BOOL is neither 0 nor 1"),
        ("BYTES", [1], b"\xff\xff\xff\xff", "an element of 4294967295 bytes, and 0 bytes are left"),
        ("BYTES", [1], b"\1\0\0", "3 bytes are left where a length of 4 bytes should be"),
        ("BYTES", [2], pack_bytes([b"a"]), "has 2 elements, and its data have 1."),
        ("BYTES", [1], pack_bytes([b"a", b"b"]), "has 1 elements, and its data have 1 and more."),
        ("BYTES", [2**59], b"", "has 576460752303423488 elements, and its data have 0."),
        # As an array of numpy's it would have 8 bytes for each element.
        ("BYTES", [0, 2**60], b"", "no memory holds the shape [0, 1152921504606846976]."),
        ("INT8", [2**61, 0], b"", "no memory holds the shape [2305843009213693952, 0]."),
        ("FP32", [3], [1.0, 2.0], "2 values, and the shape [3] has 3."),
        ("FP32", [1, 2], [[1.0], [2.0]], "nested, and not as its shape [1, 2] is"),
        ("FP32", [2, 2], [[1.0, 2.0], [3.0]], "nested, and not as its shape"),
        ("FP32", [2, 2], [[1.0, 2.0], "34"], "nested, and not as its shape"),
        ("FP32", [1], [[1.0]], "nested deeper than its shape"),
    ],
)
def test_what_is_wrong_is_said(datatype: str, shape: list[int], data: Any, said: str) -> None:
    with pytest.raises(TensorError) as raised:
        Tensor("x", datatype, shape, data).values()
    assert str(raised.value).startswith("Tensor 'x'")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT8", 128), ("UINT8", -1), ("INT32", 1.5), ("INT32", "1"), ("FP32", None), ("FP32", {}),
        ("FP16", 70000.0), ("FP64", 10**400), ("BOOL", 1), ("BYTES", 7), ("BF16", "x"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_not_packed(datatype: str, value: object) -> None:
    with pytest.raises(TensorError, match=f"are not of {datatype}"):
        Tensor("x", datatype, [1], [value]).packed()


@pytest.mark.parametrize(
    ("value", "packed"),
    [(1.0, 0x3F80), (1.00390625, 0x3F80), (1.01171875, 0x3F82), (-2.0, 0xC000), (3.4e38, 0x7F80)],
)
def test_bf16_is_rounded_to_the_nearest_and_to_even(value: float, packed: int) -> None:
    assert Tensor("x", "BF16", [1], [value]).packed() == packed.to_bytes(2, "little")


def test_what_is_no_number_stays_none_as_bf16() -> None:
    (value,) = Tensor("x", "BF16", [1], Tensor("x", "BF16", [1], [float("nan")]).packed()).values()
    assert value != value


def test_an_error_stays_short_whatever_came() -> None:
    with pytest.raises(TensorError) as raised:
        Tensor("n" * 100_000, "t" * 100_000, [1], b"").values()
    assert len(str(raised.value)) < 700
