"""Workflows by gRPC: what is asked of the broker and of workers, and how calls end."""

import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from tests.gateway.fakes import Worker, echo
from tests.gateway.grpc.serving import DEADLINE_S, Client, refused, served
from tests.gateway.workflow_links import described, steps
from torchrelay.gateway.grpc import workflow_services
from torchrelay.gateway.grpc.protos import workflow_management_pb2 as pb
from torchrelay.gateway.grpc.protos.workflow_inference_pb2 import (
    WorkflowPredictionResponse,
    WorkflowPredictionsRequest,
)
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m

pytestmark = pytest.mark.usefixtures("each_server")

WORKFLOW = steps(("a", ("b",)), ("b", ()))


def manage(client: Client, method: str, request: Any) -> Any:  # Any: grpc's calls have no types
    call: Any = client.channels["management"].unary_unary(
        f"/{workflow_services.MANAGEMENT}/{method}",
        response_deserializer=pb.WorkflowManagementResponse.FromString,
    )
    return call(request.SerializeToString(), timeout=DEADLINE_S)


def predict(client: Client, name: str = "w", inputs: dict[str, bytes] | None = None, **options: Any) -> Any:
    call: Any = client.channels["inference"].unary_unary(
        f"/{workflow_services.INFERENCE}/Predictions",
        response_deserializer=WorkflowPredictionResponse.FromString,
    )
    request = WorkflowPredictionsRequest(workflow_name=name, input=inputs or {"body": b"x"})
    return call(request.SerializeToString(), **{"timeout": DEADLINE_S, **options})


def clients(worker: Worker = echo) -> AbstractAsyncContextManager[Client]:
    return served(worker, described(*WORKFLOW))


async def test_a_prediction_goes_through_all_steps_and_no_step_has_longer_than_the_call() -> None:
    async with clients() as client:
        assert (await predict(client, inputs={"z": b"1"}, timeout=5)).prediction == b"1"
        assert [item.model for item in client.link.submitted] == ["w__a", "w__b"]
        assert [one.name for one in client.link.requests[0].inputs] == ["z"]
        first, second = client.link.submitted
        assert 0 < second.left_ms <= first.left_ms <= 5010  # grpc rounds up, to 10 ms


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.PredictionFailed("Prediction failed", "no"), "INTERNAL", "Error executing a\n"),
        (errors.ServiceUnavailable("full", "its queue is full"), "UNAVAILABLE", "full\n"),
    ],
)
async def test_a_failed_step_ends_the_call(error: errors.RelayError, code: str, said: str) -> None:
    async with clients(lambda *_: error) as client:
        found, description = await refused(predict(client))
        assert (found, (description or "").startswith(said)) == (code, True)


async def test_a_workflow_must_be_named_and_there() -> None:
    async with clients() as client:
        assert await refused(predict(client, "")) == (
            "INTERNAL",
            "Parameter workflow_name is required.\nBadRequestException.()",
        )
        assert await refused(predict(client, "other")) == (
            "NOT_FOUND",
            "Workflow not found: other\norg.pytorch.serve.archive.workflow.WorkflowNotFoundException",
        )


async def test_workflows_are_described_and_listed_as_by_rest() -> None:
    async with clients() as client:
        answer = await manage(client, "DescribeWorkflow", pb.DescribeWorkflowRequest(workflow_name="w"))
        assert json.loads(answer.msg)[0]["workflowDag"] == "{a=[b]}"
    entry = m.WorkflowEntry("w", "w.war")
    async with served(replies=lambda ask: m.WorkflowsListed(ask.ask, (entry,), None)) as client:
        answer = await manage(client, "ListWorkflows", pb.ListWorkflowsRequest(limit=5, next_page_token=2))
        assert json.loads(answer.msg) == {"workflows": [{"workflowName": "w", "workflowUrl": "w.war"}]}
        assert (client.link.asked[-1].limit, client.link.asked[-1].offset) == (5, 2)


async def test_workflows_are_registered_where_that_is_switched_on_and_unregistered() -> None:
    def reply(ask: Any) -> m.Message:
        if isinstance(ask, m.RegisterWorkflow):
            return m.WorkflowRegistered(ask.ask, "n")
        return m.WorkflowUnregistered(ask.ask, ask.workflow)

    request = pb.RegisterWorkflowRequest(url="w.war", workflow_name="n", response_timeout=7)
    async with served(replies=reply, enable_workflow_api=True) as client:
        answer = await manage(client, "RegisterWorkflow", request)
        assert answer.msg == "Workflow n has been registered and scaled successfully."
        (ask,) = client.link.asked
        assert (ask.url, ask.workflow_name, ask.response_timeout_s, ask.startup_timeout_s) == (
            "w.war", "n", 7, None,
        )  # fmt: skip
        answer = await manage(client, "UnregisterWorkflow", pb.UnregisterWorkflowRequest(workflow_name="n"))
        assert answer.msg == 'Workflow "n" unregistered'
    async with served(replies=reply) as client:
        code, description = await refused(manage(client, "RegisterWorkflow", request))
        assert (code, (description or "").splitlines()[0]) == (
            "INVALID_ARGUMENT",
            "Registering new workflows is disabled.",
        )
