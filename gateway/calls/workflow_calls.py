"""Calls about workflows, as TorchServe has them: parameters in, an answer's body or text out."""

from dataclasses import dataclass

from msgspec import UNSET

from torchrelay.gateway.calls.model_calls import page_of
from torchrelay.gateway.calls.parameters import Parameters
from torchrelay.gateway.link import Link
from torchrelay.shared import api_bodies, errors
from torchrelay.shared.archives.workflow_spec import dag_text
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages as m


@dataclass(frozen=True, slots=True)
class WorkflowCalls:
    """The calls of one gateway process. `proof` is of the caller's key, see `auth.proof_of`."""

    _link: Link
    _config: GatewaySettings

    def require_workflow_api(self) -> None:
        """Raise BadRequest, in the words of the last TorchServe, where workflows may not be registered."""
        if not self._config.enable_workflow_api:
            raise errors.BadRequest("Registering new workflows is disabled.")

    async def page(self, given: Parameters) -> api_bodies.WorkflowsBody:
        """List a page of workflows by name."""
        listed = await self._link.ask(m.ListWorkflows(0, *page_of(given)), m.WorkflowsListed)
        return api_bodies.WorkflowsBody(
            next_page_token=UNSET if listed.next_offset is None else str(listed.next_offset),
            workflows=tuple(
                api_bodies.WorkflowsEntryBody(workflow_name=entry.workflow, workflow_url=entry.url)
                for entry in listed.workflows
            ),
        )

    async def describe(self, workflow: str) -> api_bodies.WorkflowBody:
        """Describe a workflow."""
        found = await self._link.ask(m.DescribeWorkflow(0, workflow), m.WorkflowDescribed)
        return api_bodies.WorkflowBody(
            workflow_name=found.workflow,
            workflow_url=found.url,
            min_workers=found.min_workers,
            max_workers=found.max_workers,
            batch_size=found.batch_size,
            max_batch_delay=found.max_batch_delay_ms,
            workflow_dag=dag_text(
                tuple((step.name, step.successors) for step in found.steps if step.is_in_dag)
            ),
        )

    async def register(self, given: Parameters, proof: str) -> str:
        """Register an archive, and wait for the workers of all its steps."""
        url = given.text("url")
        if url is None:
            raise errors.BadRequest("Parameter url is required.")
        response_timeout = given.number("response_timeout", 0)
        startup_timeout = given.number("startup_timeout", -1)
        ask = m.RegisterWorkflow(
            0,
            url,
            workflow_name=given.text("workflow_name") or None,
            response_timeout_s=response_timeout if response_timeout > 0 else None,
            startup_timeout_s=startup_timeout if startup_timeout >= 0 else None,
            s3_sse_kms=given.flag("s3_sse_kms", default=False),
            proof=proof,
        )
        registered = await self._link.ask(ask, m.WorkflowRegistered)
        return f"Workflow {registered.workflow} has been registered and scaled successfully."

    async def unregister(self, workflow: str, proof: str) -> str:
        """Unregister a workflow, with the models that are its steps."""
        await self._link.ask(m.UnregisterWorkflow(0, workflow, proof), m.WorkflowUnregistered)
        return f'Workflow "{workflow}" unregistered'
