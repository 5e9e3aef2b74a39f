"""The services of workflows, which TorchServe has by HTTP alone; each stands beside one of TorchServe's."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from torchrelay.gateway import auth
from torchrelay.gateway.calls import workflow_runs
from torchrelay.gateway.calls.prediction_jobs import require_bounds
from torchrelay.gateway.calls.workflow_calls import WorkflowCalls
from torchrelay.gateway.calls.workflow_runs import WorkflowRequest
from torchrelay.gateway.grpc.grpc_errors import busy
from torchrelay.gateway.grpc.management_service import given, json_text
from torchrelay.gateway.grpc.protos import workflow_management_pb2 as pb
from torchrelay.gateway.grpc.protos.ordered_inputs_pb2 import OrderedPredictionsRequest
from torchrelay.gateway.grpc.protos.workflow_inference_pb2 import WorkflowPredictionResponse
from torchrelay.gateway.grpc.served_calls import (
    Context,
    Method,
    ServedCalls,
    answer_by,
    authorization,
    parsed,
)
from torchrelay.shared import errors, ids

INFERENCE = "org.pytorch.serve.grpc.inference.WorkflowInferenceAPIsService"
MANAGEMENT = "org.pytorch.serve.grpc.management.WorkflowManagementAPIsService"

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class WorkflowInferenceService:
    """Predictions by workflows."""

    _calls: ServedCalls

    def handlers(self) -> dict[str, Method]:
        """Return what grpc calls, by the methods' names."""
        return {"Predictions": self._calls.unary("inference", f"{INFERENCE}/Predictions", self.predict)}

    async def predict(self, data: bytes, context: Context) -> bytes:
        """Answer with what the last step answers."""
        # The two messages have the same numbers, and this one keeps the order of the inputs.
        asked = parsed(OrderedPredictionsRequest, data)
        del data  # which may be large, and has been taken over
        if not asked.model_name:
            raise errors.BadRequest("Parameter workflow_name is required.")
        link, until = self._calls.link, answer_by(context)
        inputs = [(name, "", value) for name, value in {one.key: one.value for one in asked.input}.items()]
        require_bounds(inputs)
        try:
            steps = await workflow_runs.steps_of(link, asked.model_name, until)
            del asked
            request = WorkflowRequest(ids.request_id(), inputs, answer_by=until)
            del inputs  # let go of once the first step is done
            answered = await workflow_runs.answer(link, steps, request)
        except (errors.ServiceUnavailable, errors.BrokerUnreachable) as error:
            raise busy(error) from error
        return WorkflowPredictionResponse(prediction=answered).SerializeToString()


@dataclass(frozen=True)
class WorkflowManagementService:
    """The methods of the service; each returns what the REST API would answer."""

    _served: ServedCalls
    _calls: WorkflowCalls

    def handlers(self) -> dict[str, Method]:
        """Return what grpc calls, by the methods' names."""
        return {
            "DescribeWorkflow": self._method("DescribeWorkflow", pb.DescribeWorkflowRequest, self.describe),
            "ListWorkflows": self._method("ListWorkflows", pb.ListWorkflowsRequest, self.page),
            "RegisterWorkflow": self._method("RegisterWorkflow", pb.RegisterWorkflowRequest, self.register),
            "UnregisterWorkflow": self._method(
                "UnregisterWorkflow", pb.UnregisterWorkflowRequest, self.unregister
            ),
        }

    def _method(self, name: str, kind: type[M], call: Callable[[M, str], Awaitable[str]]) -> Method:
        async def answer(data: bytes, context: Context) -> bytes:
            text = await call(parsed(kind, data), auth.proof_of(authorization(context)))
            return pb.WorkflowManagementResponse(msg=text).SerializeToString()

        return self._served.unary("management", f"{MANAGEMENT}/{name}", answer)

    async def describe(self, asked: pb.DescribeWorkflowRequest, _proof: str) -> str:
        """Describe a workflow, in a list of one."""
        return json_text([await self._calls.describe(asked.workflow_name)])

    async def page(self, asked: pb.ListWorkflowsRequest, _proof: str) -> str:
        """List a page of workflows by name."""
        return json_text(await self._calls.page(given(asked)))

    async def register(self, asked: pb.RegisterWorkflowRequest, proof: str) -> str:
        """Register an archive, and wait for the workers of all its steps."""
        self._calls.require_workflow_api()
        return await self._calls.register(given(asked), proof)

    async def unregister(self, asked: pb.UnregisterWorkflowRequest, proof: str) -> str:
        """Unregister a workflow, with the models that are its steps."""
        return await self._calls.unregister(asked.workflow_name, proof)
