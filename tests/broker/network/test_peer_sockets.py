"""Real sockets: who comes in by which key, who is refused, and that nobody is taken for another."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import pytest
import zmq

from tests import zmtp
from tests.support import eventually
from torchrelay.broker.core.events import Event, Garbled, Received
from torchrelay.broker.network.connections import Connections
from torchrelay.broker.network.kernel import Linux
from torchrelay.broker.network.peer_sockets import TURN_LIMIT_MESSAGES, PeerSockets
from torchrelay.shared.wire import codec, curve, sockets
from torchrelay.shared.wire import messages as m

BROKER, ALICE, MALLORY = (sockets.new_key_pair() for _ in range(3))
FAILURES = {
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH), int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL),
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL), int(zmq.EVENT_DISCONNECTED),
}  # fmt: skip
BYE = codec.encode(m.Bye(), 1)


@dataclass
class Port:
    """Sockets on loopback that let in whose key is in `welcome`, and what has come."""

    peers: PeerSockets
    tcp: str
    ipc: str
    welcome: set[str]
    context: sockets.Context
    came: list[Event] = field(default_factory=list)
    dialled: list[sockets.Socket] = field(default_factory=list)

    def turn(self) -> None:
        self.peers.wait(10)
        self.peers.receive(self.came)

    def until(self, predicate: Callable[[], object]) -> None:
        def holds() -> object:
            self.turn()
            return predicate()

        eventually(holds)

    def dial(self, own: curve.KeyPair | None, session: bytes = b"s", address: str = "") -> sockets.Socket:
        secured = None if own is None else curve.Secured(BROKER.public, own)
        made = sockets.dial(
            self.context, address or self.tcp, "node", secured=secured, session=session, waits_to_send=True
        )
        self.dialled.append(made)
        return made

    def watch(self, made: sockets.Socket) -> Callable[[], bool]:
        """Return a function that tells whether a socket's handshake has failed."""
        events: list[int] = []
        monitor = made.get_monitor_socket()
        self.dialled.insert(0, monitor)

        def has_failed() -> bool:
            while monitor.poll(0):
                events.append(int.from_bytes(monitor.recv_multipart()[0][:2], "little"))
            return bool(FAILURES & set(events))

        return has_failed

    @property
    def senders(self) -> list[bytes]:
        return [event.peer for event in self.came if isinstance(event, Received)]


@contextmanager
def opened(tmp_path: object, *, is_open: bool = False) -> Iterator[Port]:
    host = Linux()
    connections = Connections(host, limit_bytes=1 << 40, fds=1000, held=dict, is_known=lambda peer: True)
    wake, _writer = socket.socketpair()
    welcome = {ALICE.public}
    peers = PeerSockets(
        connections, BROKER, lambda key: "" if key in welcome else "its key is unknown", wake.fileno()
    )
    peers.bind("tcp://127.0.0.1:*", is_open=is_open)
    listening = peers._plain if is_open or peers._secured is None else peers._secured
    tcp = bytes(listening.socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()
    ipc = f"ipc://{tmp_path}/broker.sock"
    peers.bind(ipc, is_open=False)
    context = zmq.Context()
    port = Port(peers, tcp, ipc, welcome, context)
    try:
        yield port
    finally:
        for made in port.dialled:
            made.close(linger=0)
        context.term()
        peers.close()
        host.close()
        wake.close()
        _writer.close()


@pytest.fixture
def port(tmp_path: object) -> Iterator[Port]:
    with opened(tmp_path) as made:
        yield made


def test_a_known_key_comes_in_and_its_peer_is_named_by_it(port: Port) -> None:
    alice = port.dial(ALICE)
    sockets.send(alice, (BYE,))
    port.until(lambda: port.came)
    (peer,) = port.senders
    assert curve.public_key_of(peer) == ALICE.public
    assert port.peers.send(peer, (b"back",))
    assert alice.poll(10_000)
    assert alice.recv() == b"back"


def test_on_the_unix_socket_nobody_needs_a_key(port: Port) -> None:
    local = port.dial(None, address=port.ipc)
    sockets.send(local, (BYE,))
    port.until(lambda: port.came)
    (peer,) = port.senders
    assert curve.public_key_of(peer) is None
    assert port.peers.send(peer, (b"back",))
    assert local.poll(10_000)


def test_what_is_above_a_turns_limit_on_either_socket_comes_with_the_next(port: Port) -> None:
    for made in (port.dial(None, address=port.ipc), port.dial(ALICE)):
        for _ in range(TURN_LIMIT_MESSAGES + 10):
            made.send(BYE)
    port.until(lambda: len(port.came) == 2 * (TURN_LIMIT_MESSAGES + 10))


def test_an_unknown_key_is_refused_says_nothing_and_is_logged_once(
    port: Port, caplog: pytest.LogCaptureFixture
) -> None:
    for session in (b"1", b"2"):
        mallory = port.dial(MALLORY, session)
        has_failed = port.watch(mallory)
        sockets.send(mallory, (BYE,))
        port.until(has_failed)
    assert port.came == []
    (record,) = [record for record in caplog.records if record.msg == "peer.refused"]
    assert record.__dict__["key"] == curve.shown(MALLORY.public)
    assert record.__dict__["reason"] == "its key is unknown"
    assert MALLORY.secret not in caplog.text


@pytest.mark.parametrize("how", ["no key", "another broker's key", "no protocol"])
def test_whoever_does_not_speak_as_the_port_demands_gets_nothing(
    port: Port, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    if how == "no protocol":
        with socket.create_connection(("127.0.0.1", int(port.tcp.rpartition(":")[2]))) as raw:
            raw.settimeout(10)
            raw.sendall(b"GET /version HTTP/1.1\r\n\r\n")
            got = b""
            with suppress(ConnectionResetError):
                while more := raw.recv(4096):
                    got += more
            assert b"torchrelay" not in got
            assert port.came == []
        port.until(lambda: "its handshake failed" in str([one.__dict__ for one in caplog.records]))
        return
    secured = None if how == "no key" else curve.Secured(MALLORY.public, ALICE)
    made = sockets.dial(port.context, port.tcp, "node", secured=secured, waits_to_send=True)
    port.dialled.append(made)
    has_failed = port.watch(made)
    sockets.send(made, (BYE,))
    port.until(has_failed)
    assert port.came == []
    if how == "no key" and not caplog.records:
        return  # it has seen by itself that it can't come in, and left
    port.until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.msg == "peer.refused"
    assert record.__dict__["address"] in ("127.0.0.1", "unknown")  # it may be gone before it is seen
    assert "without a key, or with another key" in record.__dict__["reason"]


@pytest.mark.parametrize("has_left", [False, True])
def test_an_end_that_is_told_before_its_beginning_counts_and_takes_nothing_from_who_has_the_fd_next(
    port: Port, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, has_left: bool
) -> None:
    """libzmq accepts in one of its threads, and may have ended the connection in another by then."""
    listener = port.peers._secured
    assert listener is not None
    with socket.socket() as other:  # its fd is what the connection had
        told = [("leaving", 0)] if has_left else []
        told += [("ended", other.fileno()), ("accepted", other.fileno())]
        coming = iter(told)
        monkeypatch.setattr(sockets, "next_connection", lambda watcher: next(coming, None))
        port.peers._note_connections(listener)
        assert other.fileno() not in port.peers._connections.unidentified
    assert (not port.peers._silent, listener.open, listener.ended_first) == (True, set(), {})
    assert [record.msg for record in caplog.records] == ([] if has_left else ["peer.refused"])


def test_who_connects_and_leaves_is_not_reported(port: Port, caplog: pytest.LogCaptureFixture) -> None:
    for said in (b"", b"\xff" + bytes(8)):
        with socket.create_connection(("127.0.0.1", int(port.tcp.rpartition(":")[2]))) as raw:
            raw.sendall(said)
            port.until(lambda: port.peers._silent)
        port.until(lambda: not port.peers._silent)
    assert not caplog.records


def test_a_peer_that_connects_anew_is_the_same_and_answers_go_to_its_new_connection(port: Port) -> None:
    first = port.dial(ALICE, b"one")
    sockets.send(first, (BYE,))
    port.until(lambda: len(port.came) == 1)
    second = port.dial(ALICE, b"one")
    sockets.send(second, (BYE,))
    port.until(lambda: len(port.came) == 2)
    peer, again = port.senders
    assert peer == again
    port.peers.send(peer, (b"to the second",))
    assert second.poll(10_000)
    assert not first.poll(0)


def test_another_start_with_the_same_key_is_another_peer(port: Port) -> None:
    for session in (b"one", b"two"):
        sockets.send(port.dial(ALICE, session), (BYE,))
    port.until(lambda: len(port.came) == 2)
    assert len(set(port.senders)) == 2


def test_nobody_becomes_another_by_saying_its_session_or_its_id(port: Port) -> None:
    alice = port.dial(ALICE, b"one")
    sockets.send(alice, (BYE,))
    port.until(lambda: port.came)
    (of_alice,) = port.senders
    port.welcome.add(MALLORY.public)
    thief = port.context.socket(zmq.DEALER)
    port.dialled.append(thief)
    for option, value in ((zmq.CURVE_SERVERKEY, BROKER.public), (zmq.CURVE_PUBLICKEY, MALLORY.public),
                          (zmq.CURVE_SECRETKEY, MALLORY.secret)):  # fmt: skip
        thief.setsockopt(option, bytes.fromhex(value))
    thief.setsockopt(zmq.METADATA, b"X-Session:one")
    thief.setsockopt(zmq.ROUTING_ID, of_alice[1:])
    thief.connect(port.tcp)
    sockets.send(thief, (BYE,))
    port.until(lambda: len(port.came) == 2)
    assert curve.public_key_of(port.senders[1]) == MALLORY.public
    port.peers.send(of_alice, (b"for alice",))
    assert alice.poll(10_000)
    assert not thief.poll(0)


def test_on_the_unix_socket_nobody_can_choose_the_id_of_a_peer_with_a_key(port: Port) -> None:
    """libzmq lets no socket choose such an id; a peer that isn't libzmq may."""
    sockets.send(port.dial(ALICE, b"one"), (BYE,))
    port.until(lambda: port.came)
    (of_alice,) = port.senders
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(port.ipc.removeprefix("ipc://"))
        raw.sendall(zmtp.GREETING + zmtp.dealer(of_alice))
        heard = b""
        while b"READY" not in heard:
            heard += raw.recv(4096)
        raw.sendall(zmtp.frame(BYE))
        port.until(lambda: len(port.came) == 2)
    assert isinstance(port.came[1], Garbled)
    assert port.peers._routes[of_alice]


def test_cutting_a_key_ends_its_connections_and_it_does_not_come_back_unless_it_is_welcome(
    port: Port,
) -> None:
    alice = port.dial(ALICE)
    sockets.send(alice, (BYE,))
    port.until(lambda: port.came)
    (peer,) = port.senders
    port.welcome.clear()
    has_failed = port.watch(alice)
    port.peers.cut(ALICE.public)
    port.until(has_failed)
    port.until(lambda: not port.peers.send(peer, (b"x",)))


def test_a_connection_that_has_ended_leaves_nothing_behind(port: Port) -> None:
    for number in range(3):
        made = port.dial(ALICE, b"%d" % number)
        sockets.send(made, (BYE,))
        port.until(partial(lambda wanted: len(port.came) == wanted, number + 1))
        made.close(linger=0)
    port.until(lambda: not port.peers._routes)
    assert not port.peers._peers
    assert not port.peers._route_by_fd


def test_with_insecure_whoever_reaches_the_port_comes_in(tmp_path: object) -> None:
    with opened(tmp_path, is_open=True) as port:
        sockets.send(port.dial(None), (BYE,))
        port.until(lambda: port.came)
        assert curve.public_key_of(port.senders[0]) is None
