"""One question to a broker: what real sockets answer, and what is made of silence and refusals."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq

from torchrelay.cli.faults import Fault
from torchrelay.cli.start import broker_dialogue
from torchrelay.cli.start.broker_dialogue import KeyRefused, NoAnswer, OtherBroker
from torchrelay.shared.wire import codec, presence, sockets
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.curve import KeyPair, Secured

BROKER, KNOWN, STRANGER = (sockets.new_key_pair() for _ in range(3))
#: Long enough for any machine; what answers, answers at once.
PATIENT_S = 60.0


@contextmanager
def answering(own: KeyPair | None) -> Iterator[str]:
    """Answer every message on a port of loopback; with `own`, only those of KNOWN."""
    context: sockets.Context = zmq.Context()
    gatekeeper = sockets.gatekeeper(context)
    listening = sockets.listener(context) if own is None else sockets.secured_listener(context, own)
    listening.bind("tcp://127.0.0.1:*")
    address = bytes(listening.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()
    stop_reader, stop_writer = socket.socketpair()

    def run() -> None:
        poller = zmq.Poller()
        for one in (listening, gatekeeper, stop_reader.fileno()):
            poller.register(one, zmq.POLLIN)
        while stop_reader.fileno() not in (ready := dict(poller.poll())):
            while question := sockets.next_to_admit(gatekeeper):
                sockets.admit(gatekeeper, question, is_welcome=question.public_key == KNOWN.public)
            if listening in ready:
                peer, *_ = listening.recv_multipart()
                sockets.send(listening, (peer, codec.encode(m.IntroduceYourself(), 7)))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield address
    finally:
        stop_writer.send(b"x")
        thread.join()
        for one in (listening, gatekeeper):
            one.close(linger=0)
        context.term()
        stop_reader.close()
        stop_writer.close()


def ask(address: str, secured: Secured | None, timeout_s: float = PATIENT_S) -> tuple[m.Message, int]:
    return broker_dialogue.ask(address, presence.PROBE, secured=secured, timeout_s=timeout_s)


def test_a_broker_answers_with_its_epoch() -> None:
    with answering(None) as address:
        assert ask(address, None) == (m.IntroduceYourself(), 7)


def test_a_broker_that_asks_for_keys_answers_whom_it_knows_and_nobody_else() -> None:
    with answering(BROKER) as address:
        assert ask(address, Secured(BROKER.public, KNOWN)) == (m.IntroduceYourself(), 7)
        with pytest.raises(KeyRefused):
            ask(address, Secured(BROKER.public, STRANGER))


@pytest.mark.parametrize("secured", [None, Secured(STRANGER.public, KNOWN)])
def test_without_a_key_or_with_anothers_there_is_no_answer(secured: Secured | None) -> None:
    with answering(BROKER) as address, pytest.raises(OtherBroker):
        ask(address, secured)


def test_a_plain_broker_is_not_the_one_with_a_key() -> None:
    with answering(None) as address, pytest.raises(OtherBroker):
        ask(address, Secured(BROKER.public, KNOWN))


def test_where_nobody_listens_nobody_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(NoAnswer):
            ask(f"tcp://127.0.0.1:{taken.getsockname()[1]}", None, timeout_s=0.2)


def test_what_is_no_address_is_a_fault() -> None:
    with pytest.raises(Fault, match="no broker's address"):
        ask("tcp://nowhere.invalid:x", None)
