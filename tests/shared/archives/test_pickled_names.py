"""Which classes a file of weights refers to, without loading it."""

import io
import pickle
import zipfile
from collections import OrderedDict
from fractions import Fraction

import pytest

from torchrelay.shared.archives import pickled_names


def names(content: bytes) -> tuple[str, ...]:
    return pickled_names.names_in(io.BytesIO(content))


def saved(value: object, protocol: int = 2) -> bytes:
    """Write a value into a zip, as torch.save does."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("weights/data.pkl", pickle.dumps(value, protocol))
        file.writestr("weights/data/0", b"\0" * 64)
    return target.getvalue()


@pytest.mark.parametrize("protocol", [2, 4])
def test_names_are_found_in_whatever_protocol(protocol: int) -> None:
    found = names(saved(OrderedDict(a=Fraction(1, 2)), protocol))
    assert found == ("collections.OrderedDict", "fractions.Fraction")


def test_the_form_before_torch_1_6_is_read_too() -> None:
    values: list[object] = [1, 2, {}, OrderedDict()]
    parts = [pickle.dumps(value, 2) for value in values]
    assert names(b"".join(parts)) == ("collections.OrderedDict",)


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", b"PK\x03\x04", b"\x80\x02", saved(OrderedDict())[:60], b"\x80\x04" + b"\xff" * 100],
    ids=["empty", "text", "zip", "pickle", "cut", "bytes"],
)
def test_what_is_no_such_file_has_no_names(content: bytes) -> None:
    assert names(content) == ()


def test_a_zip_that_begins_otherwise_is_none_of_torchs() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("code/model.py", "x")
    assert names(target.getvalue()) == ()
