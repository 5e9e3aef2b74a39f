"""How far ahead of what it has taken a node is served with chunks of archives. Pure.

A chunk takes memory from when it is read until the last of it has left; a node that asks and doesn't read
would fill the broker's. So each node has so many on their way, and what it asks for beyond that waits.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from torchrelay.broker.core.effects import ReadChunk

#: Chunks of one node between the disk and the network: what nodes ask for ahead for one archive.
CREDIT_CHUNKS = 8
#: Asks of one node that wait; above it the oldest is forgotten, and a node asks for it again.
ASKS_LIMIT = 1024


@dataclass(slots=True, eq=False)
class _Node:
    waiting: deque[ReadChunk] = field(default_factory=lambda: deque(maxlen=ASKS_LIMIT))
    #: How many are being read.
    reading: int = 0
    sending: list[Callable[[], bool]] = field(default_factory=list)


class ChunkCredit:
    """Starts reading chunks by calling `read`, within each node's credit; the shell then calls `was_read`."""

    def __init__(self, read: Callable[[ReadChunk], None]) -> None:
        self._read = read
        self._nodes: dict[bytes, _Node] = {}

    def ask(self, ask: ReadChunk) -> None:
        """Read a chunk, now or when those before it have left."""
        node = self._nodes.setdefault(ask.peer, _Node())
        node.waiting.append(ask)
        self._go_on(node)

    def was_read(self, peer: bytes) -> None:
        """Take note that a chunk has been read, and is sent in this turn if it is at all."""
        if node := self._nodes.get(peer):
            node.reading -= 1

    def was_sent(self, peer: bytes, has_left: Callable[[], bool]) -> None:
        """Take note that a chunk is on its way, until `has_left` says that it needs no memory any more."""
        self._nodes.setdefault(peer, _Node()).sending.append(has_left)

    def forget(self, peer: bytes) -> None:
        """Drop what a node waits for that can't be reached."""
        if node := self._nodes.get(peer):
            node.waiting.clear()

    def go_on(self) -> None:
        """Read the chunks that credit allows by now; to be called in each turn."""
        for peer, node in list(self._nodes.items()):
            node.sending = [has_left for has_left in node.sending if not has_left()]
            self._go_on(node)
            if not (node.waiting or node.reading or node.sending):
                del self._nodes[peer]

    def _go_on(self, node: _Node) -> None:
        while node.waiting and node.reading + len(node.sending) < CREDIT_CHUNKS:
            node.reading += 1
            self._read(node.waiting.popleft())
