"""Calls about workflows."""

import pytest

from torchrelay.client import workflow_api_calls as calls
from torchrelay.client.http_calls import Call, Shown
from torchrelay.shared.api_bodies import WorkflowsBody, WorkflowsEntryBody


def test_a_workflow_is_asked_as_a_model_is() -> None:
    call = calls.predict_workflow("a b", json={"x": 1}, timeout_s=2)
    assert (call.target, call.api, call.repeated) == ("/wfpredict/a%20b", "inference", "runs twice")
    assert call.body is not None
    assert call.body.content_type == "application/json"


def test_registering_waits_for_the_steps_and_only_reading_may_be_repeated() -> None:
    registering = calls.register_workflow("w.war", workflow_name="w")
    assert (registering.target, registering.timeout_s) == ("/workflows?url=w.war&workflow_name=w", None)
    kinds = (
        registering.repeated,
        calls.unregister_workflow("w").repeated,
        calls.describe_workflow("w").repeated,
    )
    assert kinds == ("harmful", "harmful", "harmless")


def test_every_page_is_read() -> None:
    steps = calls.workflows()
    assert isinstance(first := next(steps), Call)
    assert first.target == "/workflows?next_page_token=0"
    entry = WorkflowsEntryBody(workflow_name="w", workflow_url="w.war")
    page = WorkflowsBody(workflows=(entry,), next_page_token="1")
    assert steps.send(page) == Shown(entry)
    assert isinstance(second := next(steps), Call)
    assert second.target == "/workflows?next_page_token=1"
    with pytest.raises(StopIteration):
        steps.send(WorkflowsBody(workflows=()))
