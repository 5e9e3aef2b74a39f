"""A gateway's link over a real socket: by which key it comes, and what waits while it may not."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zmq

from tests.secured_broker import OURS, SecuredBroker, credentials
from tests.support import eventually, eventually_async
from torchrelay.gateway.link import Link
from torchrelay.gateway.session import SUBMIT_LIMIT_JOBS, Answer
from torchrelay.gateway.waiter import Waiter
from torchrelay.shared import member_credentials
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec, sockets
from torchrelay.shared.wire import messages as m


@pytest.fixture
def broker() -> Iterator[SecuredBroker]:
    made = SecuredBroker(zmq.Context(), OURS)
    yield made
    made.close()


@asynccontextmanager
async def linked(broker: SecuredBroker, path: Path) -> AsyncIterator[Link]:
    link = Link(GatewaySettings(credentials_file=str(credentials(path, "gateway", broker.address))))
    await link.start()
    try:
        yield link
    finally:
        await link.close()


def answer(broker: SecuredBroker, *more: m.Message) -> None:
    """Welcome whoever says hello, with more behind it, and answer every job."""
    for peer, message in broker.heard():
        if isinstance(message, m.HelloGateway):
            for said in (m.Welcome(500, 60_000), *more):
                broker.say(peer, said)
        elif isinstance(message, m.Submit):
            meta, _ = codec.pack_response(codec.Response(200, "", (), b"done"))
            items = tuple(m.AnsweredItem(item.job, meta, 0) for item in message.items)
            broker.say(peer, m.Answered(items))


async def until(broker: SecuredBroker, predicate: Callable[[], object], *more: m.Message) -> None:
    def holds() -> object:
        answer(broker, *more)
        return predicate()

    await eventually_async(holds)


async def test_what_waits_while_the_key_is_refused_goes_out_once_it_is_known(
    broker: SecuredBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    welcome = set(broker.welcome)
    broker.welcome.clear()
    async with linked(broker, tmp_path / "c.json") as link:
        meta, frames = codec.pack_request("r", [], [("body", "", b"x")])
        waiting = asyncio.ensure_future(wait_for(link.submit("m", None, meta, frames)))
        await until(broker, lambda: "doesn't know" in link.unreachable_reason)
        assert not link.is_up
        assert not waiting.done()
        broker.welcome |= welcome
        await until(broker, waiting.done)
        assert waiting.result().is_final
        assert link.is_up
    lines = [one for one in caplog.records if one.msg == "gateway.not_let_in"]
    assert len(lines) == 1
    assert "torchrelay gateways invite" in lines[0].__dict__["reason"]


async def wait_for(waiter: Waiter[Answer]) -> Answer:
    return await waiter


async def test_keys_that_the_broker_announces_are_kept_on_disk(broker: SecuredBroker, tmp_path: Path) -> None:
    following = sockets.new_key_pair().public
    path = tmp_path / "c.json"
    async with linked(broker, path) as link:
        announced = m.BrokerKeys((OURS.public, following))
        await until(broker, lambda: member_credentials.require(path).broker_keys == announced.keys, announced)
        assert link.is_up


async def test_requests_that_fill_a_message_go_out_before_the_turn_of_the_loop_is_over(
    broker: SecuredBroker, tmp_path: Path
) -> None:
    async with linked(broker, tmp_path / "c.json") as link:
        await until(broker, lambda: link.is_up)
        meta, frames = codec.pack_request("r", [], [("body", "", b"x")])
        waiting = [link.submit("m", None, meta, frames) for _ in range(SUBMIT_LIMIT_JOBS)]
        eventually(lambda: any(isinstance(message, m.Submit) for _, message in broker.heard()))
        for waiter in waiting:
            link.forget(waiter)


async def test_answers_of_one_message_are_written_when_all_have_been_told(
    broker: SecuredBroker, tmp_path: Path
) -> None:
    happened: list[str] = []

    class Transport(asyncio.WriteTransport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            happened.append("written")

        def is_closing(self) -> bool:
            return False

    async with linked(broker, tmp_path / "c.json") as link:
        await until(broker, lambda: link.is_up)
        meta, frames = codec.pack_request("r", [], [("body", "", b"x")])

        def respond(_: object) -> None:
            happened.append("told")
            link.writes.write(Transport(), b"x")

        for _ in range(2):
            link.submit("m", None, meta, frames).add_done_callback(respond)
        await until(broker, lambda: len(happened) == 4)
    assert happened == ["told", "told", "written", "written"]


async def test_without_the_credentials_that_settings_name_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        await Link(GatewaySettings(credentials_file=str(tmp_path / "none"))).start()
