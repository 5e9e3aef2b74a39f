"""Bytes at the broker's port that are nobody's, or were said before: floods of garbage, and repetitions."""

import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import zmq

from tests.curve_client import COMMAND, GREETING, CurveClient, frame
from tests.fuzz.values import Pool, Values
from tests.integration.broker_port import PORT, Broker, running
from tests.integration.fleet import own_address
from tests.integration.test_encrypted_fleet import Wire
from tests.reliability.proxy import Doubler
from tests.support import HANG_S, eventually
from torchrelay.broker.membership.roles import may_say
from torchrelay.cli.start import broker_dialogue
from torchrelay.shared.settings import InvitationFile
from torchrelay.shared.wire import codec, invitations, sockets
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.curve import Secured
from torchrelay.shared.wire.fields import MemberRole
from torchrelay.shared.wire.redial_policy import BrokerPlace
from torchrelay.worker.common.broker_socket import BrokerSocket

pytestmark = pytest.mark.integration

IDLE, MEGABYTE = 500, 1 << 20
#: Frames of less are beats.
LEAST_BYTES = 100
#: So long that nothing of what is said with it is taken for a beat.
NAME = "rack" * 25


class Tap(Wire):
    """Keeps what each connection brings to the broker; says a frame of one side twice when told to."""

    def __init__(self, host: str, port: int) -> None:
        self._broker_port = port
        #: Of each connection, what came from the part, as it came.
        self.said: list[list[bytes]] = []
        #: Whose next frame that is no beat comes twice; "" for nobody's.
        self.doubles = ""
        self.ended = 0
        super().__init__(host, port)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        side = "part" if sink.getpeername()[1] == self._broker_port else "broker"
        said: list[bytes] = []
        if side == "part":
            self.said.append(said)
        doubler = Doubler()
        with suppress(OSError):
            while data := source.recv(1 << 16):
                said.append(data)
                is_doubling = self.doubles == side and len(data) > LEAST_BYTES
                passed = doubler.feed(data, 1 if is_doubling else 0)
                if is_doubling and len(passed) > len(data):
                    self.doubles = ""
                sink.sendall(passed)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.ended += 1


def enrolled(text: str, broker: Broker) -> Secured:
    """Join by an invitation, and return what to come with from then on."""
    invitation, own = invitations.parse(text), sockets.new_key_pair()
    key = invitation.broker_key.hex()
    card = Secured(key, sockets.pair_of(invitation.secret_key.hex()))
    enrol = m.Enrol(m.PROTOCOL_VERSION, own.public, "edge")
    answer, _ = broker_dialogue.ask(broker.address, enrol, secured=card, timeout_s=60)
    assert isinstance(answer, m.Enrolled)
    return Secured(key, own)


class Member:
    """A gateway that reaches the broker by its key, through the tap."""

    def __init__(self, address: str, file: Path, broker: Broker) -> None:
        card = enrolled(file.read_text(), broker)
        place = BrokerPlace((address,), (card.broker_key,), card.own.secret)
        self._socket = BrokerSocket(place, "gateway")
        self._epoch = 0
        self.heard: list[m.Message] = []

    def turn(self) -> bool:
        """Take in what has come."""
        self._socket.wait(0.05)
        while (received := self._socket.receive()) is not None:
            message, epoch, _ = received
            self._epoch = epoch or self._epoch
            self.heard.append(message)
        return True

    def join(self) -> None:
        """Say hello until there is a welcome."""
        self.heard.clear()

        def is_welcome() -> bool:
            self._socket.send(m.HelloGateway(m.PROTOCOL_VERSION, "edge", 1), 0)
            self.turn()
            return any(isinstance(message, m.Welcome) for message in self.heard)

        eventually(is_welcome)

    def say(self, message: m.Message) -> None:
        assert self._socket.send(message, self._epoch)

    def hear(self, kind: type[m.Message]) -> None:
        def has_come() -> bool:
            self.turn()
            return any(isinstance(message, kind) for message in self.heard)

        eventually(has_come)

    def invited(self) -> int:
        """Ask how many invitations for nodes there are."""
        self.heard.clear()
        self.say(m.ReadMembers(7, "node"))
        self.hear(m.MembersRead)
        (read,) = [message for message in self.heard if isinstance(message, m.MembersRead)]
        return len(read.invitations)

    def close(self) -> None:
        self._socket.close(0)


@contextmanager
def joined(folder: Path) -> Iterator[tuple[Broker, Tap, Member]]:
    host, file = own_address(), folder / "invitation"
    addresses = (f"tcp://{host}:{PORT}", f"ipc://{folder}/broker.sock")
    files = (InvitationFile("gateway", str(file)),)
    with running(folder, addresses=addresses, insecure=False, invitation_files=files) as broker:
        broker.host, broker.address = host, addresses[0]
        tap = Tap(host, PORT)
        member = Member(tap.address, file, broker)
        try:
            member.join()
            yield broker, tap, member
        finally:
            member.close()
            tap.close()


def repeated(host: str, pieces: list[bytes], *, in_steps: bool) -> bytes:
    """Say what was recorded on a connection of its own; return what the broker says until it hangs up."""
    with socket.create_connection((host, PORT), 20) as connection:
        connection.settimeout(20)
        heard = b""
        with suppress(ConnectionError):
            for piece in pieces if in_steps else [b"".join(pieces)]:
                connection.sendall(piece)
                if in_steps and len(heard) < len(GREETING):  # the next piece answers this one
                    heard += connection.recv(1 << 16)
            while more := connection.recv(1 << 16):
                heard += more
        return heard


@pytest.mark.parametrize("in_steps", [True, False])
def test_a_recorded_connection_gets_nothing_and_does_nothing_when_it_is_repeated(
    tmp_path: Path, in_steps: bool
) -> None:
    with joined(tmp_path) as (broker, tap, member):
        member.say(m.Invite(1, "node", "rack"))
        member.hear(m.Invited)
        assert member.invited() == 1
        (recorded,) = tap.said
        for _ in range(3):
            heard = repeated(broker.host, list(recorded), in_steps=in_steps)
            assert b"\x05READY" not in heard
            assert b"\x07MESSAGE" not in heard
        assert member.invited() == 1
        lines = [line for line in broker.log.splitlines() if "peer.refused" in line]
        assert {"said again what another has said" in line for line in lines} == {True}
        assert len(lines) <= 2, "one of its address, and one where it was gone before that was seen"
        assert len(tap.said) == 1, "its own connection is none the worse for it"


@pytest.mark.parametrize("side", ["part", "broker"])
def test_a_frame_that_comes_twice_ends_the_connection_and_counts_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, side: str
) -> None:
    with joined(tmp_path) as (_, tap, member):
        tap.doubles = side
        member.say(m.Invite(1, "node", NAME))
        eventually(lambda: member.turn() and tap.ended)
        if side == "broker":  # libzmq tells who dials, and not who listens
            eventually(lambda: member.turn() and "repeated or left out on the way" in caplog.text)
        member.join()
        assert len(tap.said) == 2
        count = member.invited()
        assert count <= 1  # none where, on a busy machine, beats that came together were said twice
        member.say(m.Invite(2, "node", "other"))
        member.hear(m.Invited)
        assert member.invited() == count + 1


def garbage(broker_key: bytes) -> list[tuple[bytes, ...]]:
    """Return what is said on connections, piece by piece."""
    plain, hello = (
        (GREETING.replace(b"CURVE", mechanism) for mechanism in (b"NULL\0", b"PLAIN")),
        os.urandom(194),
    )
    return [
        (os.urandom(MEGABYTE // 4),),
        *((greeting, frame(b"\x05READY", COMMAND)) for greeting in plain),
        (GREETING, frame(b"\x05HELLO" + hello, COMMAND)),
        (GREETING, bytes((COMMAND | 2,)) + (1 << 40).to_bytes(8, "big")),
        (GREETING, bytes((COMMAND | 2,)) + (2_000_000_000).to_bytes(8, "big"), bytes(MEGABYTE)),
        (GREETING, CurveClient(broker_key, os.urandom(32)).hello()[:100]),
        (b"GET / HTTP/1.1\r\n\r\n",),
    ]


def test_members_are_heard_and_hosts_join_amid_idle_connections_and_garbage(tmp_path: Path) -> None:
    with joined(tmp_path) as (broker, tap, member), ExitStack() as open_ones:
        process = psutil.Process(broker.process.pid)
        memory, fds = broker.rss, process.num_fds()
        for _ in range(IDLE):
            open_ones.enter_context(socket.create_connection((broker.host, PORT), 20))
        eventually(lambda: process.num_fds() >= fds + IDLE)
        key = invitations.parse((tmp_path / "invitation").read_text()).broker_key
        for pieces in garbage(key) * 5:
            connection = open_ones.enter_context(socket.create_connection((broker.host, PORT), 20))
            with suppress(OSError):
                connection.settimeout(1)
                for piece in pieces:
                    connection.sendall(piece)
            assert member.invited() == 0
        newcomer = Member(broker.address, tmp_path / "invitation", broker)
        newcomer.join()
        assert newcomer.invited() == 0
        newcomer.close()
        assert broker.rss - memory < 100 * MEGABYTE
        assert len(tap.said) == 1, "the member has not had to connect anew"
        # Those that say nothing are given up without having to be told.
        eventually(lambda: process.num_fds() < fds + IDLE // 10)


HELLOS: dict[MemberRole, m.Hello] = {
    "gateway": m.HelloGateway(m.PROTOCOL_VERSION, "harm", 1),
    "node": m.HelloNode(m.PROTOCOL_VERSION, "harm", (m.Device("cpu", "cpu"),), 0, ()),
}


def heard(dialled: sockets.Socket, *kinds: type[m.Message]) -> int:
    """Pass over messages until one of some kinds comes, and return its epoch."""
    while True:
        assert dialled.poll(int(HANG_S * 1000))
        message, epoch = codec.decode(dialled.recv_multipart()[0])
        if isinstance(message, kinds):
            return epoch


@pytest.mark.parametrize("role", ["gateway", "node"])
def test_a_member_that_says_what_is_not_its_roles_or_cannot_be_read_is_answered_and_harms_nobody(
    tmp_path: Path, role: MemberRole
) -> None:
    values = Values(random.Random(1), Pool([1, 2], ["m", "1.0", "cpu"]))
    others = [kind for kind in codec.KINDS.values() if not may_say(role, kind, may_manage=False)]
    hello = codec.encode(HELLOS[role], 0)
    cut_off = [hello[:-3], hello[:5], b"", hello + bytes(codec.HEAD_TO_BROKER_LIMIT_BYTES)]
    context: sockets.Context = zmq.Context()
    with joined(tmp_path) as (broker, _, honest):
        honest.say(m.Invite(1, role, may_manage=False))
        honest.hear(m.Invited)
        (invited,) = [one for one in honest.heard if isinstance(one, m.Invited)]
        harmful = sockets.dial(
            context, broker.address, role, secured=enrolled(invited.text, broker), waits_to_send=True
        )
        try:
            harmful.send(hello)
            epoch = heard(harmful, m.Welcome)
            said = [values.message((kind,)) for kind in others]
            bad = [*cut_off, *(codec.encode(one, epoch) for one in said if isinstance(one, m.Message))]
            assert len(bad) == len(cut_off) + len(others) > 30
            for head in bad:
                harmful.send(head)
            harmful.send_multipart([hello] * (codec.FRAMES_LIMIT + 2))
            for _ in range(len(bad) + 1):
                heard(harmful, m.Misunderstood, m.AskRefused)
            assert honest.invited() == 0
            assert "broker.fault" not in broker.log
        finally:
            context.destroy(linger=0)
