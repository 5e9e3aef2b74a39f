"""The broker's shell: what only real sockets and files show."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from broker import server
from tests.support import eventually


def test_one_state_folder_has_one_broker(tmp_path: Path) -> None:
    with server.lock_state(tmp_path), pytest.raises(server.BindFailed, match="--state-dir"):
        server.lock_state(tmp_path)
    server.lock_state(tmp_path).close()


class Wire:
    """A cable between peer and broker that can be cut so that only the peer notices."""

    def __init__(self, port: int) -> None:
        self._broker_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        near, _ = self._pairs[0]
        near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in (one for pair in self._pairs for one in pair):
            one.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._broker_port))
            self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=_pump, args=(source, sink), daemon=True)
                self._threads.append(thread)
                thread.start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        return


@pytest.fixture
def router() -> Iterator[tuple["zmq.Context[zmq.Socket[bytes]]", "zmq.Socket[bytes]"]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = server._router(context)
    yield context, made
    made.close(linger=0)
    context.term()


def test_a_peer_whose_cable_was_pulled_gets_in_again_by_a_new_connection(
    router: tuple["zmq.Context[zmq.Socket[bytes]]", "zmq.Socket[bytes]"],
) -> None:
    context, socket_ = router
    cable = Wire(socket_.bind_to_random_port("tcp://127.0.0.1"))
    peer = context.socket(zmq.DEALER)
    for option, value in ((zmq.ROUTING_ID, b"node-x"), (zmq.LINGER, 0), (zmq.RECONNECT_IVL, 50)):
        peer.setsockopt(option, value)
    peer.connect(cable.address)
    peer.send(b"hello")
    eventually(lambda: socket_.poll(10))
    assert socket_.recv_multipart() == [b"node-x", b"hello"]
    cable.cut()

    def gets_through() -> bool:
        peer.send(b"again", zmq.NOBLOCK)
        return bool(socket_.poll(50))

    eventually(gets_through, within_s=5)
    assert socket_.recv_multipart()[0] == b"node-x"
    socket_.send_multipart([b"node-x", b"welcome"])
    eventually(lambda: peer.poll(10))
    peer.close(linger=0)
    cable.close()
