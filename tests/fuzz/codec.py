"""Bytes that are no message, or hardly one: whatever is read of them can be written again, or is refused."""

import random

from tests.fuzz.values import Pool, Values, damaged
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

ALL = tuple(codec.KINDS.values())


def run(seed: int, times: int) -> None:
    """Read so many damaged things. Raises AssertionError, or what the codec should not."""
    rng = random.Random(seed)
    values = Values(rng, Pool([1, 9000], ["m", "cpu"]))
    for _ in range(times):
        message = values.message(ALL)
        assert isinstance(message, m.Message)
        _read_head(damaged(rng, codec.encode(message, 1)))
        frames = [rng.randbytes(rng.choice((0, 5))) for _ in range(rng.choice((0, 1, 2)))]
        _read_request(rng, frames)
        _read_response(rng, frames)
        _split(rng, frames)


def _read_head(data: bytes) -> None:
    try:
        message, epoch = codec.decode(data)
    except codec.WireError as error:
        _check(error)
        return
    again = codec.encode(message, epoch)
    assert codec.encode(*codec.decode(again)) == again


def _read_request(rng: random.Random, frames: list[bytes]) -> None:
    inputs = [("data", "text/plain", b"x" * 10), ("large", "", b"y" * 9000)]
    meta, _ = codec.pack_request("id", [("explain", "True")], inputs, rng.choice((b"", b"a\nb", b"a\nb\nc")))
    try:
        request, values = codec.unpack_request(damaged(rng, meta), frames)
    except codec.WireError as error:
        _check(error)
        return
    assert len(request.inputs) == len(values)
    assert all(isinstance(value, bytes) for value in values)


def _read_response(rng: random.Random, frames: list[bytes]) -> None:
    error = rng.choice((None, ("BadRequest", "no", "")))
    meta, _ = codec.pack_response(
        codec.Response(200, "OK", (("a", "b"),), b"x" * rng.choice((1, 9000)), error)
    )
    try:
        response, body = codec.unpack_response(damaged(rng, meta), frames)
    except codec.WireError as fault:
        _check(fault)
        return
    assert isinstance(body, bytes)
    assert -(2**31) <= response.status < 2**31


def _split(rng: random.Random, frames: list[bytes]) -> None:
    counts = [rng.choice((0, 1, 2, -1, 2**63 - 1)) for _ in range(rng.choice((0, 1, 2, 3)))]
    try:
        parts = codec.split_frames(counts, frames)
    except codec.WireError as error:
        _check(error)
        return
    assert [frame for part in parts for frame in part] == frames
    assert [*map(len, parts)] == counts


def _check(error: codec.WireError) -> None:
    assert len(str(error)) < 300, f"{len(str(error))} characters are repeated"
