"""Labels of nodes: what can be one, and how they are written."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared import labels
from torchrelay.shared.wire.fields import LABELS_LIMIT, LabelText

TEXTS = st.from_regex(re.compile(r"[A-Za-z0-9._/-]{1,63}"), fullmatch=True)


@given(st.dictionaries(TEXTS, TEXTS, max_size=LABELS_LIMIT))
def test_labels_are_read_as_they_are_written(wanted: dict[str, str]) -> None:
    found = labels.checked(wanted)
    assert dict(found) == wanted
    assert labels.parse(labels.shown(found).split(", ") if found else ()) == found
    assert [name for name, _ in found] == sorted(wanted)


@given(st.text(max_size=70))
def test_a_text_is_one_exactly_where_the_wire_lets_it_through(text: str) -> None:
    try:
        msgspec.convert(text, LabelText)
    except msgspec.ValidationError:
        with pytest.raises(ValueError, match="no name or value of a label"):
            labels.checked({text: "a"})
    else:
        assert labels.checked({text: text}) == ((text, text),)


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (["zone"], "as NAME=VALUE, found 'zone'"),
        ([""], "as NAME=VALUE"),
        (["zone="], "'' is no name or value"),
        (["=a"], "'' is no name or value"),
        (["zone=a=b"], "'a=b' is no name or value"),
        (["zone=a", "zone=b"], "the label zone is given twice"),
        (["zone=\x1b[2J"], "no name or value"),
        (["z" * 64 + "=a"], "no name or value"),
        ([f"n{number}=a" for number in range(33)], "33 labels are more than the limit of 32"),
    ],
)
def test_what_is_no_label_is_refused_with_the_reason(texts: list[str], fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        labels.parse(texts)
