from hypothesis import given
from hypothesis import strategies as st

from torchrelay.gateway.gathered_body import GatheredBody
from torchrelay.shared.processes.shared_memory import HeldPiece, LentMemory, Piece

BITS = st.lists(st.one_of(st.binary(max_size=9), st.integers(0, 200_000).map(lambda size: b"x" * size)))


@given(BITS)
def test_what_was_added_is_the_whole(bits: list[bytes]) -> None:
    body = GatheredBody()
    for bit in bits:
        body.add(bit)
    assert body.size == sum(map(len, bits))
    assert body.whole() == b"".join(bits)


@given(BITS)
def test_in_memory_that_is_lent_too(bits: list[bytes]) -> None:
    memory = LentMemory(16 << 20, until_taken=False)
    piece = memory.reserve(sum(map(len, bits)))
    assert isinstance(piece, HeldPiece)
    body = GatheredBody(piece)
    for bit in bits:
        body.add(bytearray(bit))
    whole = body.whole()
    assert isinstance(whole, Piece)
    assert whole.copied() == b"".join(bits)
    memory.close()


def test_a_body_of_single_bytes_takes_no_object_for_each() -> None:
    body = GatheredBody()
    for _ in range(200_000):
        body.add(b"x")
    assert len(body._chunks) < 10
    assert body.whole() == b"x" * 200_000
