"""A broker alone in a process of its own, and peers of it: honest ones, and such as speak byte by byte."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import zmq

from tests.integration.fleet import own_address
from tests.support import HANG_S, eventually
from tests.zmtp import MORE, Peer, dealer, frame
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import codec, sockets
from torchrelay.shared.wire import messages as m

PORT = 7700
RUN = """
import sys, msgspec
from torchrelay.broker import server
from torchrelay.shared.logs import logs
from torchrelay.shared.settings import BrokerSettings
logs.configure("broker", level="INFO", log_format="text")
sys.exit(server.run(msgspec.json.decode(sys.argv[1], type=BrokerSettings)))
"""

MessageT = TypeVar("MessageT", bound=m.Message)


class Broker:
    """The process, and what it logs."""

    def __init__(self, folder: Path, **changes: Any) -> None:  # Any: BrokerSettings' own fields, by name
        self.host = own_address()
        self.address = f"tcp://{self.host}:{PORT}"
        # Peers of these tests don't beat.
        own = {"addresses": (self.address,), "insecure": True, "peer_timeout_s": 120.0}
        settings = BrokerSettings(**{**own, "state_dir": str(folder), **changes})
        self._log = folder / "broker.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN, settings.to_json().decode()], stdout=log, stderr=log
            )
        self._context: sockets.Context = zmq.Context()
        self._peers: list[Peer] = []

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def rss(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def honest(self, hello: m.Message | None = None) -> "Honest":
        """Join as peers do."""
        return Honest(self._context, self.address, hello or m.HelloGateway(m.PROTOCOL_VERSION, "honest", 1))

    def raw(self, routing_id: bytes, *messages: m.Message) -> Peer:
        """Join by ZMTP, say messages, and read nothing."""
        peer = Peer(PORT, self.host)
        self._peers.append(peer)
        peer.join(dealer(routing_id))
        peer.send(*(frame(codec.encode(message, 0)) for message in messages))
        return peer

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        self._context.destroy(linger=0)
        self.process.terminate()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait(5)


class Honest:
    """A peer that has been welcomed, on a socket of zmq's."""

    def __init__(self, context: sockets.Context, address: str, hello: m.Message) -> None:
        self._socket = sockets.dial(context, address, "test", waits_to_send=True)
        self._socket.setsockopt(zmq.RCVTIMEO, int(HANG_S * 1000))
        self.epoch = 0
        self._socket.send(codec.encode(hello, 0))
        self.hear(m.Welcome)

    def say(self, message: m.Message, *frames: bytes) -> None:
        self._socket.send_multipart([codec.encode(message, self.epoch), *frames])

    def hear(self, wanted: type[MessageT]) -> MessageT:
        """Return the next message of this kind; others are dropped."""
        while True:
            message, self.epoch = codec.decode(self._socket.recv_multipart()[0])
            if isinstance(message, wanted):
                return message

    def is_served(self) -> bool:
        """Ask something and wait for the answer."""
        self.say(m.ReadFleet(1))
        self.hear(m.FleetRead)
        return True


@contextmanager
def running(folder: Path, **changes: Any) -> Iterator[Broker]:  # Any: see Broker
    """Run a broker until the end."""
    broker = Broker(folder, **changes)
    try:
        eventually(lambda: broker.process.poll() is not None or "broker.started" in broker.log)
        assert broker.process.poll() is None, broker.log
        yield broker
    finally:
        broker.close()


def parts(body: bytes, count: int) -> bytes:
    """Return so many parts of a message that goes on."""
    return frame(body, MORE) * count
