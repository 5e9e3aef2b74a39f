"""The socket of nodes and workers: whoever waits for it is woken, on a loop or without one."""

import asyncio
from collections.abc import Iterator

import pytest
import zmq

from tests.secured_broker import OURS, OWN, SecuredBroker
from tests.support import eventually, eventually_async
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.redial_policy import BrokerPlace
from torchrelay.worker.common.broker_socket import BrokerSocket


@pytest.fixture
def broker() -> Iterator[SecuredBroker]:
    made = SecuredBroker(zmq.Context(), OURS)
    yield made
    made.close()


@pytest.fixture
def link(broker: SecuredBroker) -> Iterator[BrokerSocket]:
    broker.welcome.clear()
    made = BrokerSocket(BrokerPlace((broker.address,), (OURS.public,), OWN.secret), "worker")
    yield made
    made.close(0)


def test_a_worker_that_only_waits_comes_back_once_its_key_is_known(
    broker: SecuredBroker, link: BrokerSocket
) -> None:
    def is_heard() -> bool:
        link.wait(0.05)
        link.send(m.Bye(), 1)
        return bool(broker.heard())

    eventually(lambda: is_heard() or link.is_refused)
    assert link.receive() is None
    broker.welcome.add(OWN.public)
    eventually(is_heard)
    assert not link.is_refused


async def test_a_loop_is_told_of_the_next_socket_too(broker: SecuredBroker, link: BrokerSocket) -> None:
    received: list[m.Message] = []

    def receive() -> None:
        while (came := link.receive()) is not None:
            received.append(came[0])

    link.watch(asyncio.get_running_loop(), receive)
    await eventually_async(lambda: broker.heard() or link.is_refused)
    broker.welcome.add(OWN.public)

    def is_answered() -> bool:
        link.send(m.Bye(), 1)
        for peer, _ in broker.heard():
            broker.say(peer, m.IntroduceYourself())
        return bool(received)

    await eventually_async(is_answered)
    link.stop_watching()


def test_workers_are_told_the_keys_that_the_broker_has_by_now(
    broker: SecuredBroker, link: BrokerSocket
) -> None:
    link.know((OURS.public, OWN.public))
    assert link.place == BrokerPlace((broker.address,), (OURS.public, OWN.public), OWN.secret)
