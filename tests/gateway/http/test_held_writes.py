"""What is held is written once, in order, and to no connection that has been closed meanwhile."""

import asyncio
from contextlib import suppress
from typing import cast

from torchrelay.gateway.http.held_writes import HELD_LIMIT, HELD_LIMIT_BYTES, PIECE_LIMIT_BYTES, HeldWrites


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, piece: bytes) -> None:
        assert not self.is_closed
        self.written.append(piece)

    def is_closing(self) -> bool:
        return self.is_closed


class Clients:
    def __init__(self) -> None:
        self.writes = HeldWrites()

    def write(self, client: Transport, piece: bytes) -> None:
        self.writes.write(cast(asyncio.WriteTransport, client), piece)

    def flush(self, client: Transport) -> None:
        self.writes.flush(cast(asyncio.WriteTransport, client))


def test_what_is_written_inside_goes_out_at_the_end_each_clients_in_one() -> None:
    clients, one, other = Clients(), Transport(), Transport()
    with clients.writes:
        clients.write(one, b"a")
        clients.write(other, b"b")
        clients.write(one, b"c")
        assert not one.written + other.written
    assert (one.written, other.written) == ([b"ac"], [b"b"])
    clients.write(one, b"d")
    assert one.written == [b"ac", b"d"]


def test_what_is_large_goes_at_once_behind_what_is_held() -> None:
    clients, one = Clients(), Transport()
    large = bytes(PIECE_LIMIT_BYTES + 1)
    with clients.writes:
        clients.write(one, b"a")
        clients.write(one, large)
        assert one.written == [b"a", large]
        clients.write(one, b"b")
    assert one.written == [b"a", large, b"b"]


def test_many_do_not_wait_for_each_other() -> None:
    clients, many = Clients(), [Transport() for _ in range(HELD_LIMIT + 1)]
    with clients.writes:
        for one in many:
            clients.write(one, b"x")
        assert [one.written for one in many] == [[b"x"]] * HELD_LIMIT + [[]]
    assert many[-1].written == [b"x"]


def test_many_parts_for_one_client_are_not_held_without_end() -> None:
    clients, one = Clients(), Transport()
    part = bytes(PIECE_LIMIT_BYTES)
    with clients.writes:
        for _ in range(HELD_LIMIT_BYTES // PIECE_LIMIT_BYTES + 1):
            clients.write(one, part)
        assert [len(written) for written in one.written] == [HELD_LIMIT_BYTES]
    assert [len(written) for written in one.written] == [HELD_LIMIT_BYTES, len(part)]


def test_a_client_that_ends_has_what_is_held_for_it_before() -> None:
    clients, one = Clients(), Transport()
    with clients.writes:
        clients.write(one, b"a")
        clients.flush(one)
        assert one.written == [b"a"]
        one.is_closed = True
    clients.flush(one)
    assert one.written == [b"a"]


def test_one_that_has_been_closed_gets_nothing_and_others_theirs() -> None:
    clients, closed, other = Clients(), Transport(), Transport()
    with clients.writes:
        clients.write(closed, b"a")
        clients.write(other, b"b")
        closed.is_closed = True
    assert (closed.written, other.written) == ([], [b"b"])


def test_what_is_held_goes_out_where_the_turn_fails() -> None:
    clients, one = Clients(), Transport()
    with suppress(KeyError), clients.writes:
        clients.write(one, b"a")
        raise KeyError
    assert one.written == [b"a"]
