"""Members that mean no harm, beside an attack: `python -m tests.attacks.member_probe`, told a `plan.Target`.

A node beats and asks a question twenty times a second. Every two seconds a host joins by an invitation, and a
gateway connects anew. It ends with its stdin, and then writes what became of each.
"""

import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec
import zmq

from tests.attacks import plan
from tests.attacks.verdicts import MemberOutcomes, Outcome
from torchrelay.shared import clock
from torchrelay.shared.wire import codec, curve, sockets
from torchrelay.shared.wire import messages as m

ASK_EVERY_S, BEAT_EVERY_S, JOIN_EVERY_S = 0.05, 0.5, 2.0
#: Who waits longer has failed.
ANSWER_LIMIT_S, JOIN_LIMIT_S = 5.0, 10.0
CPU = m.Device("cpu", "cpu")

MessageT = TypeVar("MessageT", bound=m.Message)


class Link:
    """A connection to the broker by a key."""

    def __init__(self, target: plan.Target, secret: str, limit_s: float) -> None:
        self._context: sockets.Context = zmq.Context()
        card = curve.Secured(target.broker_key, sockets.pair_of(secret))
        address = f"tcp://{target.address}:{target.broker_port}"
        self._socket = sockets.dial(self._context, address, "node", secured=card, waits_to_send=True)
        self._limit_s = limit_s
        self._epoch = 0

    def say(self, message: m.Message) -> None:
        sockets.send(self._socket, (codec.encode(message, self._epoch),))

    def hear(self, wanted: type[MessageT]) -> MessageT:
        """Return the next message of a kind. Raises TimeoutError."""
        until = clock.monotonic() + self._limit_s
        while self._socket.poll(max(0, int((until - clock.monotonic()) * 1000))):
            message, self._epoch = codec.decode(self._socket.recv_multipart()[0])
            if isinstance(message, wanted):
                return message
        raise TimeoutError

    def close(self) -> None:
        self._socket.close(linger=500)
        self._context.term()


def timed(outcomes: list[Outcome], act: Callable[[], object]) -> None:
    """Do something, and keep how long it took."""
    started_at = clock.monotonic()
    fault = ""
    try:
        act()
    except TimeoutError:
        fault = "no answer"
    except (zmq.ZMQError, codec.WireError) as error:
        fault = type(error).__name__
    outcomes.append(Outcome(started_at, clock.monotonic() - started_at, fault))


def beat(target: plan.Target, outcomes: list[Outcome], is_over: threading.Event) -> None:
    """Be a node that beats and asks."""
    link = Link(target, target.probe_key, ANSWER_LIMIT_S)
    link.say(m.HelloNode(m.PROTOCOL_VERSION, "probe", (CPU,), 0, ()))
    link.hear(m.Welcome)

    def ask() -> None:
        link.say(m.FetchArchive("0" * 64, 0, 1))
        link.hear(m.ArchiveMissing)

    beat_at = clock.monotonic()
    while not is_over.wait(ASK_EVERY_S):
        if clock.monotonic() >= beat_at:
            link.say(m.NodeBeat(()))
            beat_at += BEAT_EVERY_S
        timed(outcomes, ask)
    link.say(m.Bye())
    link.close()


def join(target: plan.Target) -> None:
    """Join by an invitation, come by the new key, and leave."""
    own = sockets.new_key_pair()
    link = Link(target, target.invitation, JOIN_LIMIT_S)
    try:
        link.say(m.Enrol(m.PROTOCOL_VERSION, own.public, f"host-{os.urandom(4).hex()}"))
        link.hear(m.Enrolled)
    finally:
        link.close()
    greet(target, own.secret, m.HelloNode(m.PROTOCOL_VERSION, "host", (CPU,), 0, ()))


def greet(target: plan.Target, secret: str, hello: m.Hello) -> None:
    """Come by a key, be welcomed, and leave."""
    link = Link(target, secret, JOIN_LIMIT_S)
    try:
        link.say(hello)
        link.hear(m.Welcome)
        link.say(m.Bye())
    finally:
        link.close()


def _wait_for_end(is_over: threading.Event) -> None:
    sys.stdin.buffer.read()
    is_over.set()


def main() -> None:
    target = msgspec.json.decode(sys.stdin.buffer.readline(), type=plan.Target)
    answers: list[Outcome] = []
    joins: list[Outcome] = []
    is_over = threading.Event()
    beats = threading.Thread(target=beat, args=(target, answers, is_over))
    ends = threading.Thread(target=_wait_for_end, args=(is_over,), daemon=True)
    for thread in (beats, ends):
        thread.start()
    gateway = m.HelloGateway(m.PROTOCOL_VERSION, "probe", 1)
    while not is_over.wait(JOIN_EVERY_S):
        timed(joins, lambda: join(target))
        timed(joins, lambda: greet(target, target.gateway_key, gateway))
    beats.join()
    sys.stdout.buffer.write(msgspec.json.encode(MemberOutcomes(answers, joins)))


if __name__ == "__main__":
    main()
