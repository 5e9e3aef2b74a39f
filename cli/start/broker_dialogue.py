"""One question to a broker and its answer, for commands; the only zmq module here. Blocking."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import zmq

from torchrelay.cli.faults import Fault
from torchrelay.shared import clock
from torchrelay.shared.wire import codec, sockets
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.curve import Secured

#: So many handshakes that end without a word, 0.1 s apart, are no accident.
FAILURES_LIMIT = 5
#: What is left for the last message to leave.
LINGER_MS = 500


class NoAnswer(Exception):
    """Nobody answered in time."""


class KeyRefused(Exception):
    """The broker lets nobody in by this key."""


class OtherBroker(Exception):
    """What listens there isn't the broker with this key; or, without one, a broker that asks for keys."""


def ask(
    address: str, question: m.Message, *, secured: Secured | None = None, timeout_s: float
) -> tuple[m.Message, int]:
    """Send a message and return the answer with the broker's epoch.

    Raises NoAnswer, KeyRefused, OtherBroker, and Fault for what is no broker's address.
    """
    try:
        return _asked(address, question, secured, timeout_s)
    except (zmq.ZMQError, codec.WireError) as error:
        raise Fault(f"{address} is no broker's address: {error}") from error


def _asked(
    address: str, question: m.Message, secured: Secured | None, timeout_s: float
) -> tuple[m.Message, int]:
    with _dialled(address, secured) as (socket, monitor):
        sockets.send(socket, (codec.encode(question, epoch=0),))
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        deadline = clock.monotonic() + timeout_s
        failures = 0
        while (left_s := deadline - clock.monotonic()) > 0:
            ready = dict(poller.poll(int(left_s * 1000) + 1))
            if socket in ready:
                return codec.decode(socket.recv())
            if monitor in ready:
                failures += _failures(monitor, is_secured=secured is not None)
            if failures >= FAILURES_LIMIT:
                raise OtherBroker
        raise NoAnswer


@contextmanager
def _dialled(address: str, secured: Secured | None) -> Iterator[tuple[sockets.Socket, sockets.Socket]]:
    context: sockets.Context = zmq.Context()
    try:
        socket = sockets.dial(context, address, "command", secured=secured, waits_to_send=True)
        monitor = socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        yield socket, monitor
        socket.disable_monitor()
    finally:
        context.destroy(linger=LINGER_MS)


def _failures(monitor: sockets.Socket, *, is_secured: bool) -> int:
    """Take what is told of handshakes; return how many have failed for no reason that is told."""
    event, _ = struct.unpack("=Hi", monitor.recv_multipart()[0])
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        raise KeyRefused
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        raise OtherBroker
    return 1
