"""The protocol's types of elements are what struct and numpy take them for."""

import struct

import numpy as np
import pytest

from torchrelay.shared.open_inference.datatypes import BF16, BYTES, DATATYPES, Datatype


@pytest.mark.parametrize("kind", [one for one in DATATYPES.values() if one not in (BF16, BYTES)])
def test_an_element_has_one_size_everywhere(kind: Datatype) -> None:
    assert struct.calcsize(f"<{kind.letter}") == np.dtype(kind.numpy).itemsize == kind.size


def test_the_names_are_those_of_the_protocol() -> None:
    whole = {f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
    assert set(DATATYPES) == {"BOOL", "BYTES", "BF16", "FP16", "FP32", "FP64", *whole}
