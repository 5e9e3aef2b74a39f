"""Calls about models, without a protocol around them; tests/gateway/api and tests/gateway/grpc have those."""

from typing import Any

import pytest

from tests.gateway.facts import described, facts
from tests.gateway.fakes import FakeLink, Replies
from torchrelay.gateway.calls.model_calls import Change, ModelCalls, health
from torchrelay.gateway.calls.parameters import Parameters
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages as m


async def calls(replies: Replies, **settings: Any) -> tuple[ModelCalls, FakeLink]:
    config = GatewaySettings(**settings)
    link = FakeLink(config, replies)
    await link.start()
    return ModelCalls(link, config), link


async def test_a_change_that_goes_on_by_itself_is_told_from_one_that_is_done() -> None:
    made, link = await calls(lambda ask: m.WorkersScaled(ask.ask, done=ask.synchronous))
    for synchronous, is_done in (("true", True), ("false", False)):
        given = Parameters({"min_worker": 2, "synchronous": synchronous}, strict=False)
        change = await made.scale("echo", "1.0", given, "")
        assert change.is_done is is_done
    assert [(ask.min_workers, ask.max_workers) for ask in link.asked] == [(2, 2), (2, 2)]


async def test_where_the_model_api_is_off_nothing_is_asked_of_the_broker() -> None:
    made, link = await calls(lambda ask: m.ModelUnregistered(ask.ask, "echo"), enable_model_api=False)
    with pytest.raises(errors.MethodNotAllowed):
        await made.unregister("echo", None, "")
    assert link.asked == []
    made, link = await calls(lambda ask: m.ModelUnregistered(ask.ask, "echo"), enable_model_api=True)
    assert await made.unregister("echo", None, "") == Change('Model "echo" unregistered')


async def test_a_version_is_described_and_its_handler_asked_only_for_what_it_says_of_itself() -> None:
    made, link = await calls(described(facts()))
    assert [one.model for one in await made.describe("echo", None)] == ["echo"]
    _, metadata = await made.ask_handler("echo", None, "id")
    assert bytes(metadata) == b"{}"
    assert link.requests[0].headers == (("describe", "True"),)


async def test_health_is_false_for_a_process_that_leaves_and_without_a_broker() -> None:
    _, link = await calls(lambda ask: m.HealthRead(ask.ask, healthy=True))
    assert (await health(link)).status == "Healthy"
    link.is_leaving = True
    assert (await health(link)).status == "Unhealthy"
    away = FakeLink(GatewaySettings(), is_away=True)
    await away.start()
    assert (await health(away)).status == "Unhealthy"
