"""JSON is read and written as Python's own module does it, whatever stands in it."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any  # what a handler's own class returns

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.worker.model import json_text

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
_KEYS = st.text() | st.integers() | st.floats() | st.booleans() | st.none()
VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(_KEYS, inner),
    max_leaves=20,
)
#: Digits of any number, with any point and any exponent, well formed or not.
NUMBERS = st.from_regex(r"-?[0-9]{0,25}\.?[0-9]{0,25}([eE][+-]?[0-9]{1,3})?", fullmatch=True)
#: What stands in JSON, in any order.
SIGNS = st.lists(
    st.sampled_from(
        [*'"\\/{}[],: \n\t\x00\x1f\x7fu0d8é\u2028😀\ufeff1-.e', "null", "true", "NaN", "Infinity"]
    )
).map("".join)


def outcome(read: Callable[[bytes], object], text: bytes) -> str:
    """Say what comes of reading a text; of numbers all digits, and of faults their kind."""
    try:
        return repr(read(text))
    except (ValueError, RecursionError) as error:
        return "refused" if isinstance(error, ValueError) else "too deep"


def pythons(text: bytes) -> object:
    """Read a text as TorchServe does."""
    return json.loads(str(text, "utf-8"))


@given(NUMBERS | SIGNS | SIGNS.map(lambda signs: f'["{signs}"]') | VALUES.map(json.dumps))
def test_a_text_is_read_as_python_reads_it(text: str) -> None:
    assert outcome(json_text.read, text.encode()) == outcome(pythons, text.encode())


@given(st.binary() | st.binary().map(lambda content: b'"' + content + b'"'))
def test_bytes_that_are_no_utf_8_are_refused(content: bytes) -> None:
    assert outcome(json_text.read, content) == outcome(pythons, content)


@pytest.mark.parametrize(
    "text",
    [
        b"1" * 5_000,  # more digits than Python makes a number of
        b"1e400",
        b"-0.0",
        b"2.2250738585072011e-308",
        b"9007199254740993.0",  # half way between two numbers of 64 bits
        b'"\\ud800"',
        b'{"a": 1, "a": 2}',
        b"[NaN, -Infinity]",
        b"\xef\xbb\xbf1",
        b"[" * 100_000,
        b"",
    ],
)
def test_what_json_readers_differ_in_is_read_as_python_reads_it(text: bytes) -> None:
    assert outcome(json_text.read, text) == outcome(pythons, text)


@given(VALUES)
def test_a_value_is_written_as_python_indents_it(value: object) -> None:
    assert json_text.write(value) == json.dumps(value, indent=2).encode()


class Label(str):
    """A text of a class of its own, as handlers have."""


@pytest.mark.parametrize(
    "value",
    [[], {}, [[], {}], math.nan, [math.inf], "\ud800", {Label("a"): [Label("b")]}, 10**400],
    ids=repr,
)
def test_what_json_writers_differ_in_is_written_as_python_indents_it(value: object) -> None:
    assert json_text.write(value) == json.dumps(value, indent=2).encode()


class Lazy(dict[str, int]):
    """A dict that makes up what it holds, as those have it that load or convert on access."""

    def __len__(self) -> int:
        return 1

    def items(self) -> Any:
        return [["a", 1]]


class Stream(list[object]):
    """A list whose items can be taken once."""

    def __init__(self, *items: object) -> None:
        self._items = iter(items)

    def __iter__(self) -> Iterator[object]:
        return self._items

    def __len__(self) -> int:
        return 1


class Never(float):
    """A number that says to be none."""

    def __ne__(self, other: object) -> bool:
        return True


@pytest.mark.parametrize("nest", [lambda one: one, lambda one: [one], lambda one: {"a": (1, one)}])
@pytest.mark.parametrize(
    "make",
    [Lazy, lambda: Stream(1.0, math.nan), lambda: Never(1.5), lambda: {Never(1.5): 1}, lambda: Label("a")],
)
def test_values_of_a_handlers_own_classes_are_written_as_python_indents_them(
    make: Callable[[], object], nest: Callable[[object], object]
) -> None:
    assert json_text.write(nest(make())) == json.dumps(nest(make()), indent=2).encode()


def test_what_has_no_form_is_written_by_the_callers_rule() -> None:
    assert json_text.write({"a": {1}}, list) == b'{\n  "a": [\n    1\n  ]\n}'
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        json_text.write([{1}])


def test_a_value_that_holds_itself_is_refused() -> None:
    circular: list[object] = []
    circular.append(circular)
    with pytest.raises(ValueError, match="Circular"):
        json_text.write(circular)
