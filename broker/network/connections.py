"""The broker's connections; those that hold too much memory, or never join, are cut.

libzmq bounds neither the parts of a message that never ends nor what waits for a peer that doesn't read, and
reports neither. So it is computed: the kernel counts the bytes that a TCP connection received, and those that
its other end took; the broker counts the bytes of whole messages; the difference lies in libzmq. For a unix
socket the kernel counts nothing: bytes that lie unread there, sample after sample, stand for it.

What lies in libzmq may also be whole messages that the broker has been too slow to take. It takes from all
connections in turn, and nothing comes past a message that isn't whole. So a connection of which something was
taken is not judged by what it received, and none is judged at once after the broker stood still.

No zmq here; `kernel` asks the operating system.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torchrelay.shared import ids
from torchrelay.shared.logs.logs import LogRateLimit
from torchrelay.shared.wire.presence import ANNOUNCED_LIMIT_BYTES, SLOWEST_BYTES_PER_S

logger = logging.getLogger(__name__)

MEGABYTE = 1 << 20
#: Between looks at the process's memory, and at each connection.
LOOK_S, SAMPLE_S = 0.1, 0.5
#: Samples that a connection has for joining: 10 min, since a worker that is connected anew says
#: nothing while its handler runs; 10 s where many of them wait.
PATIENT_JOIN_SAMPLES, JOIN_SAMPLES, MANY_JOINING = 1200, 20, 256
#: Connections that have sent nothing yet, at the same time: a fleet that comes back is no larger.
UNIDENTIFIED_LIMIT = 4096
#: The part of the process's fds that connections may have. With none left on a unix socket libzmq aborts.
FDS_SHARE = 0.5
#: Connections are judged once the process has so much more memory than at its start.
SPARE_BYTES = 128 * MEGABYTE
#: Bytes of one message that may come unannounced: our heads and frames, with room to spare;
#: `shared.wire.presence.ANNOUNCED_ABOVE_BYTES` says what is announced.
UNANNOUNCED_LIMIT_BYTES = 32 * MEGABYTE
#: Bytes that may wait for a peer that takes less than SLOWEST_BYTES_PER_S of them.
UNREAD_LIMIT_BYTES = 64 * MEGABYTE
#: Memory of a message beside its own bytes, and as a multiple of them: above both it consists of tiny parts.
PARTS_LIMIT_BYTES, PARTS_FACTOR = 64 * MEGABYTE, 4
#: A message of so little that isn't whole after so long is on its way no more, at SLOWEST_BYTES_PER_S.
LEAST_STUCK_BYTES, STUCK_S = 16 * 1024, 1.5
#: No connection is cut for less than this, by which counting may also be off.
LEAST_BYTES = MEGABYTE
#: Seconds over which the pace is measured at which a peer reads.
PACE_S = 10.0
#: After a cut, what was held is freed first; but where memory grows by so much meanwhile, others are at it.
GRACE_S, GRACE_BYTES = 0.3, 32 * MEGABYTE
#: A look that comes so long after the one before it: the broker stood still, its peers need not have.
LATE_S = 2.0


class Traffic(NamedTuple):
    """What the kernel knows of a connection; `received` and `taken` are None for a unix socket."""

    received: int | None
    taken: int | None
    unread: int
    untaken: int


class Kernel:
    """What is asked of the operating system. As it stands here it knows nothing, so that nothing is cut."""

    def identity(self, fd: int) -> int | None:
        """Return a number that tells an fd's socket from the next one of that fd; None if it has none."""
        return None

    def address(self, fd: int) -> str:
        """Return the address of a connection's other end; "" where that isn't known."""
        return ""

    def traffic(self, fd: int) -> Traffic | None:
        """Return the counts of a connection; None where the fd is no socket any more."""
        return None

    def cut(self, fd: int, identity: int) -> None:
        """Shut a connection down, if the fd is still its own."""

    def expect_freed(self) -> None:
        """Give memory back that libzmq frees from now on, as it lets go of a connection that has ended."""

    def memory_bytes(self) -> int:
        """Return the resident memory of this process, after what it has freed is given back."""
        return 0

    def close(self) -> None:
        """Let go of what is open."""


class PeerConnection:
    """One connection, and how many of its bytes lie in libzmq."""

    __slots__ = (
        "_pace_at", "_pace_from", "_received", "_sent_before", "_taken_before", "announced", "began_at", "fd",
        "identity", "incoming", "is_slow", "joining", "outgoing", "peer", "sent", "spare_before", "taken",
        "took",
    )  # fmt: skip

    def __init__(self, fd: int, identity: int, peer: bytes | None, spare: int, now: float) -> None:
        self.fd = fd
        self.identity = identity
        self.peer = peer
        #: Bytes of messages that we have taken from it, and given to it.
        self.taken = self.sent = 0
        #: Bytes of messages that were taken from it between the last two samples.
        self.took = 0
        #: The size of the message that it has said comes next.
        self.announced = 0
        #: Samples for which it has not joined.
        self.joining = 0
        #: Bytes that came of messages that are not whole, or wait to be read; and that wait to be sent.
        self.incoming = self.outgoing = 0
        self.is_slow = False
        #: When nothing was under way here the last time, and the unexplained memory then.
        self.began_at, self.spare_before = now, spare
        self._received = self._taken_before = self._sent_before = 0
        self._pace_at, self._pace_from = now, 0

    @property
    def holds(self) -> int:
        """Bytes that libzmq and the kernel hold for it."""
        return self.incoming + self.outgoing

    def announce(self, size_bytes: int) -> None:
        """Note how large the next message is said to be, up to a limit."""
        self.announced = min(size_bytes, ANNOUNCED_LIMIT_BYTES)

    def sample(self, traffic: Traffic, now: float) -> None:
        """Take in a sample of the kernel's counts."""
        took = self.took = self.taken - self._taken_before
        self._taken_before = self.taken
        if traffic.received is not None:
            came, self._received = traffic.received - self._received, traffic.received
            self.incoming = max(0, self.incoming + came - took)
            if took and self.incoming < LEAST_BYTES:
                self.incoming = 0  # ZMTP's own bytes add up
        else:
            self.incoming = 0 if took else self.incoming + traffic.unread
        if traffic.taken is not None:
            self.outgoing = max(0, self.sent - traffic.taken)
        else:
            self._sent_before = self._sent_before if traffic.untaken else self.sent
            self.outgoing = self.sent - self._sent_before
        self._note_pace(self.sent - self.outgoing, now)

    def stood_still(self, for_s: float) -> None:
        """Leave out a time in which the broker stood still: it counts against no peer."""
        self.began_at += for_s
        self._pace_at += for_s

    def _note_pace(self, read: int, now: float) -> None:
        if not self.outgoing:
            self._pace_at, self._pace_from, self.is_slow = now, read, False
        elif now - self._pace_at >= PACE_S:
            self.is_slow = read - self._pace_from < SLOWEST_BYTES_PER_S * (now - self._pace_at)
            self._pace_at, self._pace_from = now, read


@dataclass(eq=False)
class Connections:
    """All connections. `held` tells what the core holds for each peer, `is_known` whether it knows one."""

    kernel: Kernel
    fds: int
    limit_bytes: int
    held: Callable[[], dict[bytes, int]]
    is_known: Callable[[bytes], bool]

    def __post_init__(self) -> None:
        self._by_fd: dict[int, PeerConnection] = {}
        self.by_peer: dict[bytes, PeerConnection] = {}
        #: By fd: those that have said nothing yet. While there are any, each message is asked for its own.
        self.unidentified: dict[int, PeerConnection] = {}
        self._base_bytes: int | None = None
        self._spare = 0
        self._look_at = self._sample_at = self._judge_at = 0.0
        #: Above which memory the next is judged though it isn't time yet; None where nobody was cut just now.
        self._judge_above_bytes: int | None = None
        self._looked_at: float | None = None
        self._was_late = False
        #: By the reason of cuts.
        self._log_limits: defaultdict[str, LogRateLimit] = defaultdict(LogRateLimit)

    # What happens

    def opened(self, fd: int, now: float) -> None:
        """Take note of a connection that has been accepted."""
        known = self._by_fd.get(fd)
        identity = self.kernel.identity(fd)
        if identity is None or (known and known.identity == identity):
            return
        self.closed(fd)
        self._by_fd[fd] = self.unidentified[fd] = PeerConnection(fd, identity, None, self._spare, now)
        # Of those that have said nothing the oldest: who has a key is done with a handshake within a blink.
        if len(self.unidentified) > UNIDENTIFIED_LIMIT:
            self._cut(next(iter(self.unidentified.values())), "too many connections join", now)
        elif len(self._by_fd) > FDS_SHARE * self.fds:
            self._cut(next(iter(self.unidentified.values())), "there are too many connections", now)

    def closed(self, fd: int) -> None:
        """Take note that a connection has ended."""
        gone = self._by_fd.pop(fd, None)
        self.unidentified.pop(fd, None)
        if gone is None:
            return
        if gone.peer is not None and self.by_peer.get(gone.peer) is gone:
            del self.by_peer[gone.peer]
        if gone.holds >= LEAST_BYTES:
            self.kernel.expect_freed()

    def heard(self, peer: bytes, fd: int, now: float) -> PeerConnection | None:
        """Note which peer a connection belongs to, by a message that came on it."""
        identity = self.kernel.identity(fd)
        known = self._by_fd.get(fd)
        if identity is None:
            return self.by_peer.get(peer)
        if known is None or known.identity != identity:
            self.closed(fd)
            known = self._by_fd[fd] = PeerConnection(fd, identity, peer, self._spare, now)
        known.peer = peer
        self.unidentified.pop(fd, None)
        self.by_peer[peer] = known
        return known

    def cut(self, peer: bytes, reason: str, now: float) -> None:
        """End the connection of a peer, if it has one."""
        if connection := self.by_peer.get(peer):
            self._cut(connection, reason, now)

    # What is done about it

    def look(self, now: float) -> None:
        """Look at the process's memory and at the connections; to be called in each turn."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        self._allow_for_standing_still(now)
        if is_due := now >= self._sample_at:
            self._sample_at = now + SAMPLE_S
            self._sample(now)
            self._cut_unjoined(now)
        memory = self.kernel.memory_bytes()
        if self._base_bytes is None:
            self._base_bytes = memory
        more = memory - self._base_bytes
        is_growing = self._judge_above_bytes is not None and memory > self._judge_above_bytes
        if (more > SPARE_BYTES or memory > self.limit_bytes) and (now >= self._judge_at or is_growing):
            if not is_due:  # twice in one look, nothing would have been taken since
                self._sample(now)
            self._judge(memory, now)
        elif more < self._spare:
            self._spare = more

    def _allow_for_standing_still(self, now: float) -> None:
        """Judge nobody in the first look that comes too late, so that what has come is taken first."""
        still_s = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        is_late, self._was_late = still_s > LATE_S and not self._was_late, still_s > LATE_S
        if is_late:
            self._judge_at, self._judge_above_bytes = now + GRACE_S, None
            for connection in self._by_fd.values():
                connection.stood_still(still_s)

    def _sample(self, now: float) -> None:
        for connection in list(self._by_fd.values()):
            traffic = self.kernel.traffic(connection.fd)
            if traffic is None or self.kernel.identity(connection.fd) != connection.identity:
                self.closed(connection.fd)
                continue
            connection.sample(traffic, now)
            if not connection.incoming:
                connection.began_at, connection.spare_before = now, self._spare

    def _cut_unjoined(self, now: float) -> None:
        unknown = []
        for connection in self._by_fd.values():
            if connection.peer is not None and self.is_known(connection.peer):
                connection.joining = 0
            else:
                connection.joining += 1
                unknown.append(connection)
        samples = JOIN_SAMPLES if len(unknown) > MANY_JOINING else PATIENT_JOIN_SAMPLES
        for connection in unknown:
            if connection.joining >= samples:
                self._cut(connection, "it has not joined", now)

    def _judge(self, memory: int, now: float) -> None:
        """Cut the connection that holds most of the memory, if one holds too much."""
        assert self._base_bytes is not None
        held = self.held()
        all_held = sum(held.values()) + sum(connection.holds for connection in self._by_fd.values())
        self._spare = max(0, memory - self._base_bytes - all_held)
        # The oldest first: a message that somebody else's attack falls into is soon whole.
        large = [one for one in self._by_fd.values() if one.incoming >= LEAST_BYTES and not one.took]
        for connection in sorted(large, key=lambda one: one.began_at):
            spare = self._spare - connection.spare_before
            if connection.incoming > connection.announced + UNANNOUNCED_LIMIT_BYTES:
                return self._blame(connection, memory, "a message without end", now)
            if spare > PARTS_LIMIT_BYTES and spare > PARTS_FACTOR * connection.incoming:
                return self._blame(connection, memory, "a message of too many parts", now)
        if stuck := self._stuck_in_parts(now):
            for connection in stuck:
                self._blame(connection, memory, "messages of too many parts", now)
            return None
        for connection in self._by_fd.values():
            if connection.is_slow and connection.outgoing > UNREAD_LIMIT_BYTES:
                return self._blame(connection, memory, "it doesn't read what it asked for", now)
        if memory > self.limit_bytes and self._by_fd:
            largest = max(self._by_fd.values(), key=lambda one: one.holds + held.get(one.peer or b"", 0))
            if largest.holds + held.get(largest.peer or b"", 0) > LEAST_BYTES:
                self._blame(largest, memory, "the broker is above its memory_limit_bytes", now)
        return None

    def _stuck_in_parts(self, now: float) -> list[PeerConnection]:
        """Return connections whose messages of few bytes have not become whole, and hold much together."""
        stuck = [
            one for one in self._by_fd.values()
            if one.incoming >= LEAST_STUCK_BYTES and not one.took and now - one.began_at > STUCK_S
        ]  # fmt: skip
        spare = self._spare - min((one.spare_before for one in stuck), default=self._spare)
        is_much = spare > max(PARTS_LIMIT_BYTES, PARTS_FACTOR * sum(one.incoming for one in stuck))
        return stuck if is_much else []

    def _blame(self, connection: PeerConnection, memory: int, reason: str, now: float) -> None:
        """Cut one for what it holds; the next is judged when that is freed, or memory grows all the same."""
        self._judge_at, self._judge_above_bytes = now + GRACE_S, memory + GRACE_BYTES
        self._cut(connection, reason, now)

    def _cut(self, connection: PeerConnection, reason: str, now: float) -> None:
        if cuts := self._log_limits[reason].count(now):
            peer = None if connection.peer is None else ids.shown_peer(connection.peer)
            facts = {"incoming": connection.incoming, "outgoing": connection.outgoing, "others": cuts - 1}
            logger.warning("connection.cut", extra={"reason": reason, "peer": peer, **facts})
        self.kernel.cut(connection.fd, connection.identity)
        self.closed(connection.fd)
