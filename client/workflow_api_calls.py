"""The calls about workflows: predictions by one, and their management. Pure."""

from collections.abc import Mapping

from torchrelay.client.http_calls import Call, Steps, management, of_json, pages
from torchrelay.client.inference_calls import NOTHING, Prediction, body_of, prediction
from torchrelay.client.request_bodies import Data, Parts
from torchrelay.shared.api_bodies import StatusBody, WorkflowBody, WorkflowsBody, WorkflowsEntryBody


def predict_workflow(
    workflow: str,
    data: Data | None = None,
    *,
    json: object = NOTHING,
    parts: Parts | None = None,
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Call[Prediction]:
    """Have a workflow answer; what is sent is as in `predict`."""
    body = body_of(data, json, parts, content_type)
    return prediction("wfpredict", workflow, body=body, headers=headers, timeout_s=timeout_s)


def register_workflow(
    url: str,
    *,
    workflow_name: str | None = None,
    response_timeout: int | None = None,
    startup_timeout: int | None = None,
    s3_sse_kms: bool | None = None,
) -> Call[StatusBody]:
    """Register an archive, a file of the server's workflow store or a url; its steps have workers then."""
    query = {
        "url": url,
        "workflow_name": workflow_name,
        "response_timeout": response_timeout,
        "startup_timeout": startup_timeout,
        "s3_sse_kms": s3_sse_kms,
    }
    return management("POST", "workflows", read=of_json(StatusBody), query=query, waits=True)


def unregister_workflow(workflow: str) -> Call[StatusBody]:
    """Unregister a workflow, with the models that are its steps."""
    return management("DELETE", "workflows", workflow, read=of_json(StatusBody))


def describe_workflow(workflow: str) -> Call[list[WorkflowBody]]:
    """Read what a workflow is made of, in a list of one."""
    return management("GET", "workflows", workflow, read=of_json(list[WorkflowBody]))


def workflows() -> Steps[WorkflowsEntryBody]:
    """List all workflows, page by page."""
    return pages("workflows", WorkflowsBody, lambda page: page.workflows)
