"""Keys, and the header that carries one."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import auth
from shared import messages as m


def key(api: auth.Api, secret: str, expires_in_ms: int | None = None, name: str = "a") -> m.AccessKey:
    return m.AccessKey(api, name, hashlib.sha256(secret.encode()).hexdigest(), expires_in_ms)


def ring(*keys: m.AccessKey, now: float = 0.0) -> auth.Keyring:
    made = auth.Keyring()
    made.learn(keys, now=now)
    return made


def test_a_ring_that_was_told_nothing_opens_nothing_and_says_so() -> None:
    made = auth.Keyring()
    assert not made.is_known
    assert not made.opens("inference", "Bearer x", now=0.0)


def test_a_ring_that_was_told_of_no_keys_is_known_and_opens_nothing() -> None:
    made = ring()
    assert made.is_known
    assert not made.opens("inference", "Bearer x", now=0.0)


@pytest.mark.parametrize("header", ["Bearer s3cret", "Bearer  s3cret", "Bearer\ts3cret"])
def test_the_key_may_stand_behind_any_white_space(header: str) -> None:
    assert ring(key("inference", "s3cret")).opens("inference", header, now=0.0)


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
        "Bearer S3CRET",
        "Bearer s3cre",
        "Bearer s3crett",
        "Bearer\xa0s3cret",
        "Bearer s3cret\x00",
        "Bearer \u20ac",
    ],
)
def test_anything_else_opens_nothing(header: str | None) -> None:
    assert not ring(key("inference", "s3cret")).opens("inference", header, now=0.0)


@given(st.text())
def test_no_header_breaks_the_check(header: str) -> None:
    assert not ring(key("inference", "s3cret")).opens("inference", "Bearer \t" + header + "\x01", now=0.0)


@pytest.mark.parametrize("api", ["inference", "management", "token"])
@pytest.mark.parametrize("other", ["inference", "management", "token"])
def test_a_key_opens_its_own_api_alone(api: auth.Api, other: auth.Api) -> None:
    assert ring(key(api, "k")).opens(other, "Bearer k", now=0.0) == (api == other)


def test_each_of_several_named_keys_opens() -> None:
    made = ring(key("inference", "one", name="team-a"), key("inference", "two", name="team-b"))
    assert made.opens("inference", "Bearer one", now=0.0)
    assert made.opens("inference", "Bearer two", now=0.0)
    assert not made.opens("inference", "Bearer three", now=0.0)


def test_a_key_opens_until_its_time_is_up_counted_from_when_it_was_told() -> None:
    made = ring(key("inference", "k", 3000), now=100.0)
    assert made.opens("inference", "Bearer k", now=102.999)
    assert not made.opens("inference", "Bearer k", now=103.0)


def test_a_key_that_never_expires_opens_for_ever() -> None:
    assert ring(key("inference", "k"), now=0.0).opens("inference", "Bearer k", now=1e12)


def test_new_keys_replace_all_before_them() -> None:
    made = ring(key("inference", "old"), key("management", "m"))
    made.learn([key("inference", "new")], now=1.0)
    assert made.opens("inference", "Bearer new", now=1.0)
    assert not made.opens("inference", "Bearer old", now=1.0)
    assert not made.opens("management", "Bearer m", now=1.0)


def test_two_keys_live_side_by_side_while_one_replaces_the_other() -> None:
    made = ring(key("inference", "new"), key("inference", "old", 2000), now=0.0)
    assert made.opens("inference", "Bearer old", now=1.0)
    assert not made.opens("inference", "Bearer old", now=2.0)
    assert made.opens("inference", "Bearer new", now=2.0)


def test_a_key_may_have_letters_beyond_ascii_as_its_bytes_came() -> None:
    sent = "schlüssel".encode().decode("latin-1")
    assert ring(key("inference", "schlüssel")).opens("inference", f"Bearer {sent}", now=0.0)


def test_a_refusal_has_torchserves_words() -> None:
    of_api, of_renewal = auth.refusal("management"), auth.refusal("token")
    assert (of_api.status, of_api.type) == (400, "InvalidKeyException")
    assert of_api.message.startswith("Token Authorization failed. ")
    assert of_renewal.message.startswith("Token Authentication failed. ")
