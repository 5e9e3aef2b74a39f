"""Real sockets: a part comes back to its broker by itself, whatever its socket has met."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import zmq

from tests.secured_broker import OURS, OWN, SecuredBroker
from tests.support import eventually
from torchrelay.shared import clock
from torchrelay.shared.wire import sockets
from torchrelay.shared.wire.broker_dialer import BrokerDialer
from torchrelay.shared.wire.curve import KeyPair
from torchrelay.shared.wire.redial_policy import BrokerPlace, Kind

NEXT = sockets.new_key_pair()


class Part:
    """A dialer, and what it has said."""

    def __init__(self, place: BrokerPlace, kind: Kind = "worker") -> None:
        self.context: sockets.Context = zmq.Context()
        self.complaints: list[str] = []
        self.kept: list[tuple[str, ...]] = []
        self.closed = self.dialled = self.connected = 0
        self.dialer = BrokerDialer(self.context, kind, place, now=clock.monotonic())
        self.dialer.complain, self.dialer.keep_keys = self.complaints.append, self.kept.append
        self.dialer.on_closing, self.dialer.on_dialled = self._closing, self._dialled
        self.dialer.on_connected = self._connected

    def _closing(self) -> None:
        assert not self.dialer.socket.closed
        self.closed += 1

    def _dialled(self) -> None:
        self.dialled += 1

    def _connected(self) -> None:
        self.connected += 1

    def close(self) -> None:
        self.dialer.close()
        self.context.term()


class Scene:
    """All brokers and parts of a test."""

    def __init__(self) -> None:
        self.all: list[SecuredBroker | Part] = []

    def broker(self, key: KeyPair | None = OURS, address: str = "tcp://127.0.0.1:*") -> SecuredBroker:
        made = SecuredBroker(zmq.Context(), key, address)
        self.all.append(made)
        return made

    def part(self, *addresses: str, keys: tuple[str, ...] = (OURS.public,), kind: Kind = "worker") -> Part:
        made = Part(BrokerPlace(addresses, keys, OWN.secret if keys else ""), kind)
        self.all.append(made)
        return made

    def end(self, one: SecuredBroker | Part) -> None:
        self.all.remove(one)
        one.close()

    def until(self, predicate: Callable[[], object]) -> None:
        def holds() -> object:
            for one in self.all:
                if isinstance(one, SecuredBroker):
                    one.turn()
                else:
                    one.dialer.see(clock.monotonic())
            return predicate()

        eventually(holds)

    def until_heard(self, part: Part, broker: SecuredBroker) -> None:
        """Have the part say something, by whatever socket, until the broker hears it."""

        def is_heard() -> bool:
            with suppress(zmq.Again):
                if not part.dialer.socket.closed:
                    sockets.send(part.dialer.socket, (b"hello",))
            return bool(broker.socket.poll(20))

        self.until(is_heard)
        # How it has connected is known before anything is sent, and may have come since it looked.
        part.dialer.see(clock.monotonic())


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    for one in made.all:
        one.close()


def test_a_key_that_is_known_later_comes_in_by_a_new_socket(scene: Scene) -> None:
    broker = scene.broker()
    broker.welcome.clear()
    part = scene.part(broker.address)
    scene.until(lambda: part.dialled == 2)
    assert broker.asked >= 2
    assert part.dialer.policy.is_refused
    broker.welcome.add(OWN.public)
    scene.until_heard(part, broker)
    assert part.connected == 1
    assert part.closed == part.dialled


def test_a_key_that_others_of_the_host_were_told_brings_a_part_back(scene: Scene) -> None:
    broker = scene.broker(NEXT)
    part = scene.part(broker.address)
    part.dialer.others_keys = lambda: (OURS.public, NEXT.public)
    scene.until_heard(part, broker)
    assert part.kept[-1] == (NEXT.public,)


def test_the_peer_is_the_same_by_each_of_its_sockets(scene: Scene) -> None:
    broker = scene.broker()
    part = scene.part(broker.address)
    peers = []
    for _ in range(2):
        scene.until_heard(part, broker)
        broker.socket.recv()
        peers.append(sockets.peer_of(broker.socket.recv(copy=False)))
        broker.welcome.clear()
        part.dialer.policy.next_wake = 0.0  # a socket that counts as mute
        broker.welcome.add(OWN.public)
        scene.until(lambda: part.dialled)
    assert peers[0] == peers[1]


def test_a_broker_that_has_come_back_with_its_announced_key_is_found_and_the_key_is_kept(
    scene: Scene,
) -> None:
    broker = scene.broker()
    part = scene.part(broker.address)
    scene.until_heard(part, broker)
    part.dialer.know((OURS.public, NEXT.public))
    assert part.kept == [(OURS.public, NEXT.public)]
    address = broker.address
    scene.end(broker)
    broker = scene.broker(NEXT, address)
    scene.until_heard(part, broker)
    assert part.kept[1:] == [(NEXT.public,)]
    assert part.complaints == []


def test_a_broker_with_another_key_is_complained_of_and_not_talked_to(scene: Scene) -> None:
    broker = scene.broker(NEXT)
    part = scene.part(broker.address, kind="node")
    scene.until(lambda: part.complaints)
    assert "another key than these credentials say" in part.complaints[0]
    assert broker.asked == 0
    assert part.kept == []


def test_a_part_without_a_key_hears_that_one_is_needed(scene: Scene) -> None:
    broker = scene.broker()
    part = scene.part(broker.address, keys=(), kind="gateway")
    scene.until(lambda: part.complaints)
    assert "asks for a key" in part.complaints[0]
    assert broker.asked == 0


def test_a_part_with_a_key_says_nothing_to_a_broker_that_asks_for_none(scene: Scene) -> None:
    broker = scene.broker(None)
    part = scene.part(broker.address, kind="node")
    scene.until(lambda: part.complaints)
    assert "asks for no" in part.complaints[0]  # for sure, or as likely: as who closes the connection first
    assert not broker.socket.poll(100)


def test_another_protocol_is_told_from_a_broker_and_tried_again(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer_as_http, args=(listening, 2), daemon=True).start()
        part = scene.part(f"tcp://127.0.0.1:{listening.getsockname()[1]}", kind="node")
        scene.until(lambda: part.dialled)
    assert "a broker that asks for no key, or none" in part.complaints[0]


def test_the_next_address_is_tried_where_nobody_listens(scene: Scene) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        broker = scene.broker()
        part = scene.part(f"tcp://127.0.0.1:{nobody.getsockname()[1]}", broker.address)
        scene.until_heard(part, broker)
    assert part.dialer.address == broker.address
    assert part.complaints == []


def test_bytes_that_cannot_be_end_a_connection_and_the_part_comes_back(scene: Scene) -> None:
    """libzmq never dials again after them."""
    broker = scene.broker()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = int(broker.address.rpartition(":")[2])
        spoil = threading.Event()
        threading.Thread(target=forward, args=(listening, port, spoil), daemon=True).start()
        part = scene.part(f"tcp://127.0.0.1:{listening.getsockname()[1]}")
        scene.until_heard(part, broker)
        route = broker.socket.recv()
        while broker.socket.poll(0):
            broker.socket.recv()
        spoil.set()
        broker.socket.send_multipart((route, b"is spoilt on its way"))
        scene.until(lambda: part.dialled)
        scene.until_heard(part, broker)
    assert part.connected == 2


def test_on_a_unix_socket_nothing_is_watched(scene: Scene, tmp_path: object) -> None:
    broker = scene.broker(None, f"ipc://{tmp_path}/broker")
    part = scene.part(broker.address, keys=())
    scene.until_heard(part, broker)
    assert part.dialer.watcher_fd is None


def answer_as_http(listening: socket.socket, count: int) -> None:
    for _ in range(count):
        with suppress(OSError), listening.accept()[0] as one:
            one.recv(10)
            one.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n" + b"x" * 100)


def forward(listening: socket.socket, port: int, spoil: threading.Event) -> None:
    """Pass bytes on both ways; once, flip one on its way to who has dialled."""

    def pump(source: socket.socket, sink: socket.socket, is_spoilt: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if is_spoilt and spoil.is_set():
                    spoil.clear()
                    data = data[:-1] + bytes((data[-1] ^ 1,))
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    with suppress(OSError):
        while True:
            one, _ = listening.accept()
            other = socket.create_connection(("127.0.0.1", port))
            for source, sink, is_spoilt in ((one, other, False), (other, one, True)):
                threading.Thread(target=pump, args=(source, sink, is_spoilt), daemon=True).start()
