"""The broker's connections: who is cut for what it holds, and who isn't."""

import logging

import pytest

from torchrelay.broker.network import connections
from torchrelay.broker.network.connections import (
    JOIN_SAMPLES,
    LATE_S,
    LOOK_S,
    MANY_JOINING,
    MEGABYTE,
    PACE_S,
    PATIENT_JOIN_SAMPLES,
    SAMPLE_S,
    UNANNOUNCED_LIMIT_BYTES,
    UNIDENTIFIED_LIMIT,
    UNREAD_LIMIT_BYTES,
    Connections,
    Kernel,
    Traffic,
)
from torchrelay.shared.wire.presence import ANNOUNCED_LIMIT_BYTES

BASE = 50 * MEGABYTE


class System(Kernel):
    """A kernel with TCP connections, a process that holds what they bring, and a core."""

    def __init__(self, limit_bytes: int = 1 << 40, fds: int = 1 << 20) -> None:
        self.now = 100.0
        self.memory = BASE
        self.identities: dict[int, int] = {}
        #: By fd: bytes received, and taken by the other end.
        self.received: dict[int, int] = {}
        self.taken: dict[int, int] = {}
        #: By fd: bytes in the kernel, of a unix socket.
        self.queued: dict[int, tuple[int, int]] = {}
        self.cuts: list[int] = []
        self.expected_freed: list[float] = []
        #: By fd: memory that goes with it.
        self.brought: dict[int, int] = {}
        self.held: dict[bytes, int] = {}
        self.known: set[bytes] = set()
        self.all = Connections(
            self, fds, limit_bytes, held=lambda: self.held, is_known=self.known.__contains__
        )
        self.all.look(self.now)

    # What connections asks of a kernel

    def identity(self, fd: int) -> int | None:
        return self.identities.get(fd)

    def traffic(self, fd: int) -> Traffic | None:
        if fd in self.queued:
            return Traffic(None, None, *self.queued[fd])
        return Traffic(self.received[fd], self.taken[fd], 0, 0) if fd in self.identities else None

    def cut(self, fd: int, identity: int) -> None:
        assert self.identities.pop(fd) == identity
        self.cuts.append(fd)
        self.memory -= self.brought.pop(fd, 0)

    def expect_freed(self) -> None:
        self.expected_freed.append(self.now)

    def memory_bytes(self) -> int:
        return self.memory

    # What happens

    def connect(self, fd: int, identity: int | None = None) -> None:
        self.identities[fd] = fd + 1000 if identity is None else identity
        self.received[fd] = self.taken[fd] = 0
        self.all.opened(fd, self.now)

    def join(self, fd: int, peer: bytes = b"") -> connections.PeerConnection:
        """Connect and say hello."""
        peer = peer or b"p-%d" % fd
        self.connect(fd)
        self.known.add(peer)
        made = self.all.heard(peer, fd, self.now)
        assert made is not None
        return made

    def bring(self, fd: int, size: int, factor: float = 1) -> None:
        """Have bytes come, of a message that isn't whole yet."""
        if fd in self.identities:
            self.received[fd] += size
            self.memory += int(size * factor)
            self.brought[fd] = self.brought.get(fd, 0) + int(size * factor)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / LOOK_S)):
            self.now += LOOK_S
            self.all.look(self.now)


@pytest.fixture
def system() -> System:
    return System()


def test_a_message_of_tiny_parts_is_known_by_the_memory_that_it_takes_beside_its_bytes(
    system: System,
) -> None:
    system.join(1)
    system.join(2)
    system.pass_time(1)
    for turn in range(50):
        system.bring(1, MEGABYTE // 8, factor=30)
        if turn == 10:
            system.bring(2, 7 * MEGABYTE)  # an honest one
        system.pass_time(LOOK_S)
    assert system.cuts == [1]


def test_many_connections_with_a_few_tiny_parts_each_are_cut_together(system: System) -> None:
    for fd in range(50):
        system.join(fd)
    honest = system.join(99)
    system.pass_time(1)
    for fd in range(50):
        system.bring(fd, 100_000, factor=30)
    for _ in range(40):
        system.received[99] += 50_000
        honest.taken += 49_000
        system.pass_time(LOOK_S)
    assert system.cuts == list(range(50))


def test_attackers_side_by_side_are_cut_as_fast_as_they_fill_memory(system: System) -> None:
    """What a cut connection held is freed later than the others bring more."""
    system.join(1)
    for fd in range(2, 6):
        system.join(fd)
    system.pass_time(1)
    most = 0
    for _ in range(30):
        for fd in range(2, 6):
            system.bring(fd, MEGABYTE // 2, factor=20)
        system.brought.clear()  # not freed by a cut
        most = max(most, system.memory)
        system.pass_time(LOOK_S)
    assert sorted(system.cuts) == [2, 3, 4, 5]
    assert most < BASE + 400 * MEGABYTE


def test_a_message_may_be_announced_only_as_large_as_anybody_sends_one(system: System) -> None:
    liar = system.join(1)
    liar.announce(2**62)
    system.bring(1, ANNOUNCED_LIMIT_BYTES + UNANNOUNCED_LIMIT_BYTES)
    system.pass_time(2 * SAMPLE_S)
    assert system.cuts == []
    system.bring(1, MEGABYTE)
    system.pass_time(2 * SAMPLE_S)
    assert system.cuts == [1]


def test_a_message_without_end_is_cut_above_what_was_announced(system: System) -> None:
    honest, liar = system.join(1), system.join(2)
    honest.announced = 1000 * MEGABYTE
    liar.announced = 100 * MEGABYTE
    for _ in range(40):
        system.bring(1, 20 * MEGABYTE)
        system.bring(2, 5 * MEGABYTE)
        system.pass_time(LOOK_S)
    assert system.cuts == [2]
    assert liar.incoming >= UNANNOUNCED_LIMIT_BYTES


def test_what_is_taken_as_whole_messages_is_held_against_nobody(system: System) -> None:
    busy = system.join(1)
    system.memory += 500 * MEGABYTE  # whatever it is, it is not on the way
    for _ in range(100):
        system.received[1] += 40 * MEGABYTE
        busy.taken += 40 * MEGABYTE - 5000
        system.pass_time(LOOK_S)
    assert system.cuts == []


def test_whole_messages_that_wait_for_a_busy_broker_are_held_against_nobody(system: System) -> None:
    busy = system.join(1)
    for _ in range(20):
        system.bring(1, 10 * MEGABYTE)  # many of 100 KB
        busy.taken += 2 * MEGABYTE
        system.pass_time(LOOK_S)
    assert busy.incoming > 3 * UNANNOUNCED_LIMIT_BYTES
    assert system.cuts == []
    system.pass_time(1)  # and then there is no whole one among them
    assert system.cuts == [1]


def test_what_came_while_the_broker_stood_still_is_held_against_nobody(system: System) -> None:
    gateway, worker = system.join(1), system.join(2)
    worker.sent = 4 * UNREAD_LIMIT_BYTES
    system.taken[2] = UNREAD_LIMIT_BYTES  # it reads well
    system.memory += worker.sent
    system.pass_time(1)
    system.bring(1, 4 * UNANNOUNCED_LIMIT_BYTES)
    system.now += 60
    system.pass_time(LOOK_S)
    assert system.cuts == []
    system.taken[2] = worker.sent
    for _ in range(40):
        gateway.taken += 4 * MEGABYTE
        system.pass_time(LOOK_S)
    assert system.cuts == []


def test_a_broker_that_is_late_again_and_again_judges_all_the_same(system: System) -> None:
    system.join(1)
    system.pass_time(1)
    system.bring(1, 5 * UNANNOUNCED_LIMIT_BYTES)
    for _ in range(3):
        system.now += 2 * LATE_S
        system.all.look(system.now)
    assert system.cuts == [1]


def test_memory_that_grew_before_a_message_began_is_not_blamed_on_it(system: System) -> None:
    system.join(1)
    system.memory += 400 * MEGABYTE
    system.pass_time(2)
    system.bring(1, 8 * MEGABYTE)
    system.pass_time(5)
    assert system.cuts == []


def test_who_does_not_read_is_cut_and_who_reads_slowly_or_has_just_begun_is_not(system: System) -> None:
    never, slowly, late = system.join(1), system.join(2), system.join(3)
    system.memory += 900 * MEGABYTE
    never.sent = slowly.sent = 4 * UNREAD_LIMIT_BYTES
    for _ in range(round(1.5 * PACE_S)):
        system.taken[2] += 5_000_000
        system.pass_time(1)
    late.sent = 4 * UNREAD_LIMIT_BYTES
    system.pass_time(2)
    assert system.cuts == [1]


def test_above_the_limit_whoever_holds_most_is_cut_one_at_a_time() -> None:
    system = System(limit_bytes=BASE + 300 * MEGABYTE)
    system.join(1).announced = system.join(2).announced = 1000 * MEGABYTE
    system.join(3, b"gateway")
    system.bring(1, 80 * MEGABYTE)
    system.bring(2, 100 * MEGABYTE)
    system.held[b"gateway"] = 150 * MEGABYTE
    system.memory += 150 * MEGABYTE
    system.pass_time(LOOK_S)
    assert system.cuts == [3]
    system.pass_time(LOOK_S)
    assert system.cuts == [3]
    system.held.clear()
    system.pass_time(2)
    assert system.cuts[:2] == [3, 2]


@pytest.mark.parametrize(("others", "samples"), [(0, PATIENT_JOIN_SAMPLES), (MANY_JOINING, JOIN_SAMPLES)])
def test_a_connection_that_does_not_join_is_cut_and_one_that_does_or_comes_back_is_not(
    system: System, others: int, samples: int
) -> None:
    for fd in range(1000, 1000 + others):
        system.connect(fd)
    system.connect(1)
    system.connect(2)
    system.all.heard(b"junk", 2, system.now)  # it speaks, but is nobody
    system.join(3)
    system.pass_time(samples * SAMPLE_S - 1)
    assert system.cuts == []
    system.connect(4)
    system.all.heard(b"p-3", 4, system.now)  # peer 3, by a new connection
    system.pass_time(0.8 * samples * SAMPLE_S)
    assert sorted(system.cuts)[:2] == [1, 2]
    assert len(system.cuts) == others + 2
    assert system.all.by_peer[b"p-3"].fd == 4
    system.all.closed(3)
    assert system.all.by_peer[b"p-3"].fd == 4


def test_no_more_connections_join_at_once_than_the_limit(system: System) -> None:
    for fd in range(UNIDENTIFIED_LIMIT + 2):
        system.connect(fd)
    assert system.cuts == [0, 1]


def test_connections_leave_fds_to_the_rest_of_the_process() -> None:
    system = System(fds=100)
    for fd in range(50):
        system.join(fd)
    for fd in range(50, 55):
        system.connect(fd)
    assert system.cuts == [50, 51, 52, 53, 54]


def test_a_newcomer_takes_the_place_of_the_oldest_that_has_said_nothing() -> None:
    system = System(fds=100)
    for fd in range(50):
        system.connect(fd)
    system.join(50)
    system.join(51)
    assert system.cuts == [0, 1]
    assert system.all.by_peer.keys() == {b"p-50", b"p-51"}


def test_what_a_connection_held_is_given_back_when_it_ends_by_itself(system: System) -> None:
    for fd in (1, 2):
        system.join(fd)
    system.pass_time(1)
    system.bring(1, 8 * MEGABYTE)
    system.pass_time(1)
    system.all.closed(2)
    assert system.expected_freed == []
    system.all.closed(1)
    assert system.expected_freed == [system.now]


def test_a_connection_on_the_fd_of_one_whose_end_was_missed_has_to_join_itself(system: System) -> None:
    system.join(1)
    system.connect(1, identity=77)
    system.pass_time(1.5 * PATIENT_JOIN_SAMPLES * SAMPLE_S)
    assert system.cuts == [1]


def test_an_fd_that_has_become_another_socket_is_let_alone(system: System) -> None:
    system.join(1)
    system.identities[1] = 77  # closed, and opened by something else
    system.pass_time(1)
    assert b"p-1" not in system.all.by_peer
    system.memory += 500 * MEGABYTE
    system.pass_time(20)
    assert system.cuts == []
    system.connect(1, identity=78)
    assert 1 in system.all.unidentified


def test_of_a_unix_socket_what_lies_unread_again_and_again_is_counted(system: System) -> None:
    system.join(1)
    reads = system.join(2)
    system.queued = {1: (200_000, 0), 2: (200_000, 0)}
    for _ in range(30):
        reads.taken += 200_000
        system.memory += 10 * MEGABYTE
        system.pass_time(LOOK_S)
    assert system.cuts == [1]


def test_a_cut_is_in_the_log_without_the_routing_id(system: System, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    system.join(1, b"secret-id")
    system.bring(1, 500 * MEGABYTE)
    system.pass_time(LOOK_S)
    (record,) = caplog.records
    assert record.message == "connection.cut"
    assert vars(record)["incoming"] == 500 * MEGABYTE
    assert "secret" not in str(vars(record))
