"""Calls about workflows, without a protocol around them; see tests/gateway/api and tests/gateway/grpc."""

import pytest

from tests.gateway.fakes import FakeLink, Replies
from torchrelay.gateway.calls.parameters import Parameters
from torchrelay.gateway.calls.workflow_calls import WorkflowCalls
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages as m


async def calls(replies: Replies, config: GatewaySettings) -> tuple[WorkflowCalls, FakeLink]:
    link = FakeLink(config, replies)
    await link.start()
    return WorkflowCalls(link, config), link


async def test_times_that_make_no_sense_count_as_absent() -> None:
    made, link = await calls(lambda ask: m.WorkflowRegistered(ask.ask, "w"), GatewaySettings())
    given = {"url": "w.war", "response_timeout": 0, "startup_timeout": -5, "s3_sse_kms": "true"}
    await made.register(Parameters(given, strict=False), "proof")
    (ask,) = link.asked
    assert (ask.response_timeout_s, ask.startup_timeout_s, ask.s3_sse_kms) == (None, None, True)
    assert ask.proof == "proof"


async def test_the_last_page_has_no_token() -> None:
    made, _ = await calls(lambda ask: m.WorkflowsListed(ask.ask, (), None), GatewaySettings())
    page = await made.page(Parameters({"limit": 500}, strict=False))
    assert (page.workflows, bool(page.next_page_token)) == ((), False)


async def test_workflows_may_be_registered_only_where_that_was_switched_on() -> None:
    made, _ = await calls(lambda ask: m.WorkflowRegistered(ask.ask, "w"), GatewaySettings())
    with pytest.raises(errors.BadRequest, match="Registering new workflows is disabled"):
        made.require_workflow_api()
    made, _ = await calls(lambda ask: ask, GatewaySettings(enable_workflow_api=True))
    made.require_workflow_api()
