"""The routes of workflows: predictions by one, and TorchServe's answers to its management."""

from typing import Any

import pytest

from tests.gateway.fakes import INFERENCE, Gateway, Worker, echo
from tests.gateway.workflow_links import FORK, described, steps
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

ON = GatewaySettings(enable_workflow_api=True)


def gateway(*found: m.StepFacts, worker: Worker = echo) -> Gateway:
    return Gateway(described(*(found or steps(("a", ())))), worker)


def managed(reply: Any, config: GatewaySettings = ON) -> Gateway:  # Any: of whatever ask
    return Gateway(reply, config=config)


@pytest.mark.parametrize("path", ["/wfpredict/w", "/WfPredict/w", "/wfpredict/w/", "/wfpredict/w/more"])
@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS"])
def test_any_method_predicts_and_what_follows_the_name_is_ignored(path: str, method: str) -> None:
    made = gateway()
    answer = made.predict(path, b"x", method=method)
    assert (answer.status_code, answer.content) == (200, b"x")
    assert answer.headers["content-type"] == "application/json"
    assert made.link.submitted[0].model == "w__a"


def test_the_steps_get_the_clients_headers_and_the_first_the_parts_of_its_form() -> None:
    made = gateway(*steps(*FORK))
    body = b"p=1&q=2"
    headers = {"Content-Type": "application/x-www-form-urlencoded", "X-Mine": "h"}
    answer = made.ask(INFERENCE, "POST", "/wfpredict/w", body=body, headers=headers)
    assert answer.status_code == 200
    first, *_, last = made.link.requests
    assert [one.name for one in first.inputs] == ["p", "q"]
    assert [one.name for one in last.inputs] == ["detect", "classify"]
    assert {dict(one.headers)["X-Mine"] for one in made.link.requests} == {"h"}


def test_a_handlers_status_and_headers_are_not_passed_on() -> None:
    made = gateway(worker=lambda *_: codec.Response(201, "Made", (("x-out", "1"),), b"{}"))
    answer = made.predict("/wfpredict/w", b"x")
    assert (answer.status_code, "x-out" in answer.headers) == (200, False)


def test_an_unknown_workflow_is_404_before_its_body_is_read() -> None:
    answer = gateway().predict("/wfpredict/other", b"x")
    assert answer.json == {
        "code": 404,
        "type": "WorkflowNotFoundException",
        "message": "Workflow not found: other",
    }


def test_a_failed_step_is_torchserves_error_and_says_which_and_why() -> None:
    answer = gateway(
        worker=lambda *_: errors.PredictionFailed("Prediction failed", "ValueError: no")
    ).predict("/wfpredict/w", b"x")
    assert answer.json == {
        "code": 500,
        "type": "InternalServerException",
        "message": "Error executing a",
        "details": "step a: ValueError: no",
    }


def test_a_full_fleet_says_when_to_come_again() -> None:
    full = errors.ServiceUnavailable("full", "its queue is full", retry_after_s=3)
    answer = gateway(worker=lambda *_: full).predict("/wfpredict/w", b"x")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")


def test_a_time_that_is_none_is_400() -> None:
    answer = gateway().ask(INFERENCE, "POST", "/wfpredict/w", headers={"x-request-timeout-ms": "soon"})
    assert answer.status_code == 400


def test_the_name_must_be_there() -> None:
    assert gateway().predict("/wfpredict", b"x").status_code == 404
    assert gateway().predict("/wfpredict/", b"x").status_code == 404


def test_a_page_of_workflows_is_torchserves() -> None:
    made = managed(lambda ask: m.WorkflowsListed(ask.ask, (m.WorkflowEntry("w", "w.war"),), 1))
    answer = made.manage("GET", "/workflows?limit=1&next_page_token=0")
    assert answer.json == {
        "nextPageToken": "1",
        "workflows": [{"workflowName": "w", "workflowUrl": "w.war"}],
    }
    assert (made.link.asked[0].limit, made.link.asked[0].offset) == (1, 0)


def test_a_workflow_is_described_in_a_list_of_one() -> None:
    answer = managed(described(*steps(("a", ("b",)), ("b", ())))).manage("GET", "/workflows/w")
    assert answer.json == [
        {
            "workflowName": "w",
            "workflowUrl": "w.war",
            "minWorkers": 1,
            "maxWorkers": 2,
            "batchSize": 4,
            "maxBatchDelay": 50,
            "workflowDag": "{a=[b]}",
        }
    ]


def test_registering_takes_its_parameters_from_the_query_or_a_json_body() -> None:
    made = managed(lambda ask: m.WorkflowRegistered(ask.ask, "w"))
    answer = made.manage("POST", "/workflows?url=w.war&workflow_name=n&response_timeout=7&startup_timeout=9")
    assert answer.json == {"status": "Workflow w has been registered and scaled successfully."}
    made.manage("POST", "/workflows?url=other.war", body=b"{'url': 'w.war', workflow_name: 'n'}",
                headers={"Content-Type": "application/json"})  # fmt: skip
    first, second = made.link.asked
    assert (first.url, first.workflow_name, first.response_timeout_s, first.startup_timeout_s) == (
        "w.war", "n", 7, 9,
    )  # fmt: skip
    assert (second.url, second.workflow_name, second.response_timeout_s) == ("w.war", "n", None)


def test_registering_needs_a_url() -> None:
    answer = managed(lambda ask: m.WorkflowRegistered(ask.ask, "w")).manage("POST", "/workflows")
    assert answer.json == {
        "code": 400,
        "type": "BadRequestException",
        "message": "Parameter url is required.",
    }


def test_registering_is_off_unless_it_was_switched_on() -> None:
    made = managed(lambda ask: m.WorkflowRegistered(ask.ask, "w"), GatewaySettings())
    assert made.manage("POST", "/workflows?url=w.war").json == {
        "code": 400,
        "type": "BadRequestException",
        "message": "Registering new workflows is disabled.",
    }
    assert made.link.asked == []


def test_unregistering_is_answered_in_torchserves_words() -> None:
    made = managed(lambda ask: m.WorkflowUnregistered(ask.ask, ask.workflow), GatewaySettings())
    assert made.manage("DELETE", "/workflows/my%20flow").json == {"status": 'Workflow "my flow" unregistered'}
