"""What stands in messages."""

import msgspec
import pytest

from torchrelay.shared.wire import items

ITEMS: list[type[items.Item]] = [
    cls for cls in vars(items).values() if isinstance(cls, type) and cls.__module__ == items.__name__
]


@pytest.mark.parametrize("cls", ITEMS)
def test_an_item_is_an_array_that_nobody_changes_with_its_defaults_at_the_end(cls: type[items.Item]) -> None:
    assert cls.__struct_config__.array_like
    assert cls.__struct_config__.frozen
    assert cls.__doc__
    required = [field.required for field in msgspec.structs.fields(cls)]
    assert required == sorted(required, reverse=True)


def test_an_item_that_brings_frames_says_how_many_by_the_same_name() -> None:
    assert {cls.__name__ for cls in ITEMS if "frames" in cls.__struct_fields__} == {
        "SubmitItem", "AssignItem", "CompletedItem", "StreamedItem", "AnsweredItem",
    }  # fmt: skip
