"""A broker that a test plays: a real ROUTER socket, the real codec, and no mind of its own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import zmq

from tests.support import eventually
from torchrelay.shared import clock
from torchrelay.shared.archives.model_archive import sha256_of
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

BEAT_INTERVAL_S = 0.1
PEER_TIMEOUT_S = 1.0

MessageT = TypeVar("MessageT", bound=m.Message)


class Heard(NamedTuple):
    peer: bytes
    message: m.Message
    epoch: int
    frames: list[bytes]


class FakeBroker:
    """Welcomes every peer, beats, serves archives, and remembers what it hears."""

    def __init__(self, address: str, epoch: int = 1) -> None:
        self.address = address
        self.epoch = epoch
        self.heard: list[Heard] = []
        self.peers: set[bytes] = set()
        self.archives: dict[str, bytes] = {}
        self.beat_interval_s = BEAT_INTERVAL_S
        self.peer_timeout_s = PEER_TIMEOUT_S
        self.welcomes_workers = True
        #: Chunks are answered up to this offset.
        self.serves_up_to = 1 << 60
        self._beat_at = 0.0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.bind(address)

    def close(self) -> None:
        self._router.close()
        self._context.term()

    def keep(self, archive: Path) -> str:
        """Take an archive into the store; return its hash."""
        name = sha256_of(archive)
        self.archives[name] = archive.read_bytes()
        return name

    def send(
        self, peer: bytes, message: m.Message, frames: Sequence[bytes] = (), epoch: int | None = None
    ) -> None:
        head = codec.encode(message, self.epoch if epoch is None else epoch)
        try:
            self._router.send_multipart([peer, head, *frames], zmq.NOBLOCK)
        except zmq.ZMQError:
            self.peers.discard(peer)

    def pump(self) -> None:
        """Do what is to do now, without waiting."""
        now = clock.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + self.beat_interval_s
            for peer in list(self.peers):
                self.send(peer, m.Beat())
        while self._router.poll(0):
            peer, head, *frames = self._router.recv_multipart()
            message, epoch = codec.decode(head)
            batches = message.batches if isinstance(message, m.CompletedInRow) else (message,)
            self.heard += [Heard(peer, one, epoch, frames) for one in batches]
            self._answer(peer, message, epoch)

    def _answer(self, peer: bytes, message: m.Message, epoch: int) -> None:
        if isinstance(message, m.HelloWorker) and not self.welcomes_workers:
            return
        if isinstance(message, m.HelloNode | m.HelloWorker):
            is_new = peer not in self.peers
            self.peers.add(peer)
            interval_ms, timeout_ms = int(self.beat_interval_s * 1000), int(self.peer_timeout_s * 1000)
            self.send(peer, m.Welcome(interval_ms, timeout_ms, is_new))
        elif epoch != self.epoch or peer not in self.peers:
            self.send(peer, m.IntroduceYourself())
        elif isinstance(message, m.FetchArchive):
            content = self.archives.get(message.archive)
            if content is None:
                self.send(peer, m.ArchiveMissing(message.archive))
            elif message.offset < self.serves_up_to:
                chunk = content[message.offset : message.offset + message.length]
                self.send(peer, m.ArchiveChunk(message.archive, message.offset, len(content)), [chunk])

    def all(self, kind: type[MessageT]) -> list[MessageT]:
        """Return every message of a kind heard so far."""
        return [item.message for item in self.heard if isinstance(item.message, kind)]

    def expect(
        self, kind: type[MessageT], when: Callable[[MessageT], bool] = lambda _: True
    ) -> tuple[MessageT, Heard]:
        """Pump until such a message is heard, and forget all up to it; return it."""
        self.until(lambda: any(isinstance(item.message, kind) and when(item.message) for item in self.heard))
        for index, item in enumerate(self.heard):
            if isinstance(item.message, kind) and when(item.message):
                del self.heard[: index + 1]
                return item.message, item
        raise AssertionError

    def until(self, predicate: Callable[[], object]) -> None:
        """Pump until the predicate holds."""

        def pumped() -> object:
            self.pump()
            return predicate()

        eventually(pumped)
