"""Keys, and the header that carries one."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.facts import key
from torchrelay.gateway import auth
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import KeyedApi


def ring(*keys: m.AccessKey, now: float = 0.0) -> auth.KnownKeys:
    made = auth.KnownKeys()
    made.replace(keys, now=now)
    return made


def test_a_ring_that_was_told_nothing_opens_nothing_and_says_so() -> None:
    made = auth.KnownKeys()
    assert not made.is_known
    assert not made.opens("inference", "x", now=0.0)


def test_a_ring_that_was_told_of_no_keys_is_known_and_opens_nothing() -> None:
    made = ring()
    assert made.is_known
    assert not made.opens("inference", "x", now=0.0)


@pytest.mark.parametrize("header", ["Bearer s3cret", "Bearer  s3cret", "Bearer\ts3cret"])
def test_the_key_may_stand_behind_any_white_space(header: str) -> None:
    assert auth.key_of(header) == "s3cret"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "s3cret",
        "Bearer",
        "Bearer ",
        "Bearers3cret",
        "bearer s3cret",
        "BEARER s3cret",
        "Basic s3cret",
        "Bearer s3cret x",
        "Bearer s3cret ",
        " Bearer s3cret",
        "Bearer s3cret, Bearer s3cret",
        "Bearer\xa0s3cret",
    ],
)
def test_anything_else_carries_no_key(header: str | None) -> None:
    assert auth.key_of(header) is None


@pytest.mark.parametrize("other", ["S3CRET", "s3cre", "s3crett", "", "s3cret\x00", "\u20ac", "s3crét"])
def test_a_key_that_is_not_quite_it_opens_nothing(other: str) -> None:
    assert not ring(key("inference", "s3cret")).opens("inference", other, now=0.0)


@given(st.text())
def test_no_header_breaks_the_check(header: str) -> None:
    said = auth.key_of("Bearer " + header)
    assert said is None or not ring(key("inference", "\x01")).opens("inference", said + "\x01", now=0.0)


@pytest.mark.parametrize("api", ["inference", "management", "token"])
@pytest.mark.parametrize("other", ["inference", "management", "token"])
def test_a_key_opens_its_own_api_alone(api: KeyedApi, other: KeyedApi) -> None:
    assert ring(key(api, "k")).opens(other, "k", now=0.0) == (api == other)


def test_each_of_several_named_keys_opens() -> None:
    made = ring(key("inference", "one"), key("inference", "two"))
    assert made.opens("inference", "one", now=0.0)
    assert made.opens("inference", "two", now=0.0)
    assert not made.opens("inference", "three", now=0.0)


def test_a_key_opens_until_its_time_is_up_counted_from_when_it_was_told() -> None:
    made = ring(key("inference", "k", 3000), now=100.0)
    assert made.opens("inference", "k", now=102.999)
    assert not made.opens("inference", "k", now=103.0)


def test_a_key_that_never_expires_opens_for_ever() -> None:
    assert ring(key("inference", "k"), now=0.0).opens("inference", "k", now=1e12)


def test_new_keys_replace_all_before_them() -> None:
    made = ring(key("inference", "old"), key("management", "m"))
    made.replace([key("inference", "new")], now=1.0)
    assert made.opens("inference", "new", now=1.0)
    assert not made.opens("inference", "old", now=1.0)
    assert not made.opens("management", "m", now=1.0)


def test_a_message_that_took_its_time_gives_no_key_more_of_it() -> None:
    made = ring(key("inference", "k", 3000), key("management", "m"), now=100.0)
    made.replace([key("inference", "k", 2000), key("management", "m", 1000)], now=104.0)
    assert not made.opens("inference", "k", now=103.0)
    assert made.opens("management", "m", now=104.5)
    assert not made.opens("management", "m", now=105.0)


def test_two_keys_live_side_by_side_while_one_replaces_the_other() -> None:
    made = ring(key("inference", "new"), key("inference", "old", 2000), now=0.0)
    assert made.opens("inference", "old", now=1.0)
    assert not made.opens("inference", "old", now=2.0)
    assert made.opens("inference", "new", now=2.0)


def test_a_key_may_have_letters_beyond_ascii_as_its_bytes_came() -> None:
    sent = "schlüssel".encode().decode("latin-1")
    assert ring(key("inference", "schlüssel")).opens("inference", sent, now=0.0)


def test_a_refusal_has_torchserves_words() -> None:
    of_api, of_renewal = auth.refusal("management"), auth.refusal("token")
    assert (of_api.status, of_api.type) == (400, "InvalidKeyException")
    assert of_api.message.startswith("Token Authorization failed. ")
    assert of_renewal.message.startswith("Token Authentication failed. ")


# Who guesses


def guesses(
    wrong: auth.WrongKeys, keys: Iterable[str], address: str = "10.0.0.1", now: float = 0.0
) -> list[bool]:
    return [wrong.is_guess(address, key, now) for key in keys]


def drawn(count: int) -> list[str]:
    return [f"key-{number}" for number in range(count)]


def test_an_address_that_sends_many_different_keys_guesses() -> None:
    told = guesses(auth.WrongKeys(), drawn(auth.WRONG_KEYS_LIMIT + 2))
    assert told == [False] * auth.WRONG_KEYS_LIMIT + [True, True]


def test_an_old_key_that_is_sent_again_and_again_is_no_guess() -> None:
    wrong = auth.WrongKeys()
    assert not any(guesses(wrong, ["expired"] * 10_000))
    guesses(wrong, drawn(auth.WRONG_KEYS_LIMIT + 2))
    assert not any(guesses(wrong, ["expired"] * 10))


def test_a_guess_from_one_address_is_not_held_against_another_but_for_one_hosts_own() -> None:
    wrong = auth.WrongKeys()
    guesses(wrong, drawn(auth.WRONG_KEYS_LIMIT + 2), "2001:db8:1:2::1")
    assert guesses(wrong, ["x"], "2001:db8:1:2:3:4:5:6") == [True]
    assert guesses(wrong, ["x"], "2001:db8:1:3::1") == [False]
    assert guesses(wrong, ["x"], "10.0.0.2") == [False]
    assert guesses(wrong, ["x"], "") == [False]
    guesses(wrong, drawn(auth.WRONG_KEYS_LIMIT + 2), "::ffff:10.0.0.3")
    assert guesses(wrong, ["y"], "10.0.0.3") == [True]
    assert guesses(wrong, ["y"], "fe80::1%eth0") == [False]


def test_after_a_while_an_address_begins_anew() -> None:
    wrong = auth.WrongKeys()
    guesses(wrong, drawn(auth.WRONG_KEYS_LIMIT + 2))
    assert guesses(wrong, ["x"], now=auth.WRONG_KEYS_WINDOW_S - 1) == [True]
    assert guesses(wrong, ["x"], now=auth.WRONG_KEYS_WINDOW_S) == [False]


def test_what_is_remembered_of_guesses_is_bounded() -> None:
    wrong = auth.WrongKeys()
    guesses(wrong, drawn(auth.WRONG_KEYS_LIMIT + 2), "10.9.9.9")
    for number in range(auth.ADDRESSES_LIMIT - 1):
        guesses(wrong, drawn(2), f"10.0.{number >> 8}.{number & 255}")
    assert guesses(wrong, ["x"], "10.9.9.9") == [True]
    for number in range(2 * auth.ADDRESSES_LIMIT):
        guesses(wrong, drawn(2), f"10.1.{number >> 8}.{number & 255}")
    assert len(wrong._guesses) == auth.ADDRESSES_LIMIT
    guesses(wrong, drawn(10_000), "10.9.9.9")
    assert max(len(found.keys) for found in wrong._guesses.values()) == auth.WRONG_KEYS_LIMIT
