"""Arrays become tensors and come back the same, copied only where they have to be."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from tests.shared.open_inference.test_tensors import tensors
from torchrelay.shared.open_inference.tensor_arrays import array_of, tensor_of
from torchrelay.shared.open_inference.tensors import Tensor, TensorError

TYPES = arrays.boolean_dtypes() | arrays.integer_dtypes() | arrays.unsigned_integer_dtypes()


@given(arrays.arrays(TYPES | arrays.floating_dtypes(sizes=(16, 32, 64)), arrays.array_shapes(min_side=0)))
def test_an_array_comes_back_the_same(array: Any) -> None:
    back = array_of(tensor_of("x", array))
    assert back.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable
    assert back.flags.aligned


@given(tensors())
def test_an_array_has_the_values_of_its_tensor(tensor: Tensor) -> None:
    array = array_of(tensor)
    assert array.shape == tuple(tensor.shape)
    assert array.ravel().tolist() == tensor.values()


def test_data_that_can_be_used_where_they_lie_are_not_copied() -> None:
    lying = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.shares_memory(array_of(tensor_of("x", lying)), lying)
    own = bytearray(24)
    array_of(Tensor("x", "FP32", [6], own))[:] = 1
    assert own != bytearray(24)


@pytest.mark.parametrize("data", [b"12345678", memoryview(bytearray(9))[1:]])
def test_an_array_of_data_that_are_not_its_own_is_a_copy(data: Any) -> None:
    array = array_of(Tensor("x", "FP64", [1], data))
    array[0] = 5.0
    assert array[0] == 5.0
    assert bytes(data) in (b"12345678", bytes(8))


def test_an_array_that_lies_otherwise_becomes_one_in_order() -> None:
    turned = np.arange(6, dtype=">i4").reshape(2, 3).T
    assert Tensor("x", "INT32", [3, 2], tensor_of("x", turned).packed()).values() == [0, 3, 1, 4, 2, 5]
    assert tensor_of("x", np.float32(1.5) * np.ones(())).values() == [1.5]


def test_what_numpy_makes_an_array_of_is_a_tensor_as_well() -> None:
    assert (tensor_of("x", [[1.5, 2]]).datatype, tensor_of("x", [[1.5, 2]]).shape) == ("FP64", (1, 2))
    assert tensor_of("x", np.float32(1.5)).values() == [1.5]


def test_texts_and_bytes_become_bytes() -> None:
    assert tensor_of("x", np.array(["ä", "b"])).values() == ["ä".encode(), b"b"]
    assert tensor_of("x", np.array([b"a", "b"], object)).values() == [b"a", b"b"]
    assert array_of(Tensor("x", "BYTES", [1, 2], ["a", "b"])).tolist() == [["a", "b"]]


def test_bf16_is_float32_as_an_array() -> None:
    array = np.array([[1.0, 2.5]], np.float32)
    tensor = tensor_of("x", array, "BF16")
    assert (tensor.datatype, len(tensor.packed())) == ("BF16", 4)
    np.testing.assert_array_equal(array_of(tensor), array)
    assert array_of(tensor).dtype == np.float32


@pytest.mark.parametrize(
    ("array", "datatype", "said"),
    [
        (np.zeros(1, complex), "", "no datatype for arrays of complex128"),
        (np.zeros(1, "datetime64[s]"), "", "no datatype for arrays of datetime64"),
        (np.zeros(1), "FP31", "no datatype is called 'FP31'"),
        (np.zeros(1), "FP32", "an array of float64 is said to be FP32"),
        (np.array([1, None], object), "", "its values are not of BYTES"),
    ],
)
def test_an_array_that_is_no_tensor_is_refused(array: Any, datatype: str, said: str) -> None:
    with pytest.raises(TensorError, match=said):
        tensor_of("x", array, datatype)
