"""The socket to the broker; the one module that knows zmq, for node and worker alike.

It dials out, never blocks, and belongs to the thread that made it. Made after any fork: a zmq context
does not survive one.
"""

import logging
from collections.abc import Sequence

import zmq

from torchrelay.shared.wire import codec, sockets
from torchrelay.shared.wire import messages as m

logger = logging.getLogger(__name__)

Received = tuple[m.Message, int, list[memoryview]]


class BrokerSocket:
    """A connection to the broker that may come and go."""

    def __init__(self, address: str, role: str, wake_fd: int | None = None) -> None:
        """Dial `address`; `wait` also ends when `wake_fd` is readable."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = sockets.dial(self._context, address, role)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        if wake_fd is not None:
            self._poller.register(wake_fd, zmq.POLLIN)

    @property
    def fd(self) -> int:
        """An fd that turns readable when there may be something: then, and after each send, drain."""
        return int(self._socket.getsockopt(zmq.FD))

    def send(self, message: m.Message, epoch: int, frames: Sequence[codec.Payload] = ()) -> bool:
        """Send, or return False where there is no connection to send on."""
        if self._socket.closed:  # a thread's last words may come after `close`
            return False
        try:
            sockets.send(self._socket, (codec.encode(message, epoch), *frames))
        except zmq.Again:
            return False
        return True

    def receive(self) -> Received | None:
        """Return the next message with its epoch and frames, or None; what can't be read is dropped."""
        while not self._socket.closed:  # a loop may call once more after `close`
            try:
                head = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return None
            frames = []
            while sockets.has_more(self._socket):
                frames.append(self._socket.recv(zmq.NOBLOCK, copy=False).buffer)
            try:
                message, epoch = codec.decode(head)
            except codec.WireError as error:
                logger.warning("message.unreadable", extra={"reason": str(error)})
                continue
            return message, epoch, frames
        return None

    def wait(self, timeout_s: float) -> None:
        """Wait for a message, for the wake fd, or for the time to pass."""
        self._poller.poll(max(0, round(timeout_s * 1000)))

    def close(self, linger_s: float) -> None:
        """Close; what is under way has `linger_s` to leave."""
        self._socket.close(linger=round(linger_s * 1000))
        self._context.term()
