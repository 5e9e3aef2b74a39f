"""What all messages have in common."""

from typing import get_args

import msgspec
import pytest

from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import KINDS

MESSAGES = list(KINDS.values())


@pytest.mark.parametrize("cls", MESSAGES)
def test_a_message_is_an_array_that_nobody_changes_and_says_what_it_means(cls: type[m.Message]) -> None:
    assert cls.__struct_config__.array_like
    assert cls.__struct_config__.frozen
    assert cls.__doc__
    assert cls.__doc__.strip()


@pytest.mark.parametrize("cls", MESSAGES)
def test_a_message_with_less_at_its_end_is_understood_as_far_as_there_are_defaults(
    cls: type[m.Message],
) -> None:
    required = [field.required for field in msgspec.structs.fields(cls)]
    assert required == sorted(required, reverse=True), "a field without a default stands behind one with"


def test_whoever_asks_numbers_it_and_every_reply_says_which_it_answers() -> None:
    for cls in (*get_args(m.Ask), *get_args(m.Reply)):
        assert cls.__struct_fields__[0] == "ask"


def test_each_kind_of_peer_joins_by_a_hello_of_its_own_that_begins_with_the_protocol() -> None:
    hellos = get_args(m.Hello)
    for union in (m.FromGateway, m.FromNode, m.FromWorker):
        assert len(set(get_args(union)) & set(hellos)) == 1
    assert all(cls.__struct_fields__[0] == "protocol" for cls in hellos)
