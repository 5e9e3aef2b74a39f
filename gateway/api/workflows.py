"""The APIs of workflows: predictions by one, and TorchServe's management of them."""

from falcon.asgi import Response

from torchrelay.gateway import auth
from torchrelay.gateway.api import request_inputs, responses
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.api.inference import client_head, note_timeout
from torchrelay.gateway.api.management import UndescribedResource, registration_parameters
from torchrelay.gateway.calls import workflow_runs
from torchrelay.gateway.calls.parameters import Parameters
from torchrelay.gateway.calls.workflow_calls import WorkflowCalls
from torchrelay.gateway.calls.workflow_runs import WorkflowRequest
from torchrelay.gateway.http.standard_responses import JSON
from torchrelay.gateway.link import Link
from torchrelay.shared.settings import GatewaySettings


class WorkflowPredictions:
    """`/wfpredict/{workflow}`, by any method; what follows the name is ignored, as in TorchServe."""

    def __init__(self, link: Link, config: GatewaySettings) -> None:
        self._link = link
        self._config = config

    async def on_request(self, req: GatewayRequest, resp: Response | None, **fields: str) -> None:
        """Answer with what the last step answers; the handler's status and headers are not passed on."""
        assert resp is not None  # falcon's type for sinks has websockets
        note_timeout(req)
        # Before the body is read: one that is in memory while this waits would not be counted.
        steps = await workflow_runs.steps_of(self._link, fields["workflow"], req.answer_by)
        body = await req.read_body(self._config.max_request_size, self._link)
        inputs = request_inputs.read_inputs(body, req.content_type or "")
        added = () if req.has(b"content-length") else (("content-length", str(len(body))),)
        del body
        request = WorkflowRequest(
            req.scope["request_id"], inputs, added, client_head(req, self._config), req.answer_by,
            req.was_read_in_pieces,
        )  # fmt: skip
        del inputs  # let go of once the first step is done
        answered = await workflow_runs.answer(self._link, steps, request)
        resp.status = 200
        resp.content_type = JSON
        resp.data = answered


class WorkflowsResource(UndescribedResource):
    """`/workflows`: the list, and registration."""

    def __init__(self, link: Link, config: GatewaySettings) -> None:
        super().__init__(link, config)
        self._workflows = WorkflowCalls(link, config)

    async def on_get(self, req: GatewayRequest, resp: Response) -> None:
        """List a page of workflows by name."""
        responses.answer(resp, await self._workflows.page(Parameters.of_query(req.query_string)))

    async def on_post(self, req: GatewayRequest, resp: Response) -> None:
        """Register an archive; with a JSON body its fields are the parameters, else those of the query."""
        self._workflows.require_workflow_api()
        given = await registration_parameters(req, self._config, self._link)
        responses.answer_status(resp, await self._workflows.register(given, auth.proof_of(req.auth)))


class WorkflowResource(UndescribedResource):
    """`/workflows/{workflow}`."""

    def __init__(self, link: Link, config: GatewaySettings) -> None:
        super().__init__(link, config)
        self._workflows = WorkflowCalls(link, config)

    async def on_get(self, _req: GatewayRequest, resp: Response, workflow: str) -> None:
        """Describe a workflow, in a list of one."""
        responses.answer(resp, [await self._workflows.describe(workflow)])

    async def on_delete(self, req: GatewayRequest, resp: Response, workflow: str) -> None:
        """Unregister a workflow, with the models that are its steps."""
        text = await self._workflows.unregister(workflow, auth.proof_of(req.auth))
        responses.answer_status(resp, text)
