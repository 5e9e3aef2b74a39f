"""Ids of peers that prove who they are, and those that others may choose."""

from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared import ids
from torchrelay.shared.wire import curve

KEYS = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(KEYS, st.binary(max_size=64))
def test_the_key_of_a_peer_can_be_read_off_its_id(key: str, session: bytes) -> None:
    peer = curve.secured_peer(key, session)
    assert curve.public_key_of(peer) == key
    assert curve.is_reserved(peer)


@given(KEYS, st.binary(max_size=64), KEYS, st.binary(max_size=64))
def test_two_keys_never_have_one_id(key: str, session: bytes, other: str, of_other: bytes) -> None:
    if key != other:
        assert curve.secured_peer(key, session) != curve.secured_peer(other, of_other)


def test_what_peers_without_a_key_are_called_is_no_key() -> None:
    for peer in (ids.routing_id("gateway"), b"\0\1\2\3\4", b"g" + bytes(40), b""):
        assert curve.public_key_of(peer) is None
        assert not curve.is_reserved(peer)


def test_a_secret_key_is_not_shown() -> None:
    assert "ab" * 32 not in repr(curve.KeyPair("cd" * 32, "ab" * 32))
