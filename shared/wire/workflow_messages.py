"""What gateways ask of the broker about workflows, and its replies.

A workflow's steps are models; the jobs of a request go to those, as any others.
"""

from typing import Annotated

from msgspec import Meta

from torchrelay.shared.archives.workflow_spec import STEPS_LIMIT
from torchrelay.shared.wire import fields as f
from torchrelay.shared.wire.items import Item, Message


class RegisterWorkflow(Message, frozen=True):
    """Register the archive at `url`, and all models that it names; the rest as in RegisterModel."""

    ask: f.Number
    url: f.Said
    workflow_name: f.Said | None = None
    response_timeout_s: f.Whole32 | None = None
    startup_timeout_s: f.Whole32 | None = None
    s3_sse_kms: bool = False
    proof: f.Name = ""


class UnregisterWorkflow(Message, frozen=True):
    """Drop a workflow with its models."""

    ask: f.Number
    workflow: f.Said
    proof: f.Name = ""


class DescribeWorkflow(Message, frozen=True):
    """Ask what a workflow's steps are, and which follows which."""

    ask: f.Number
    workflow: f.Said


class ListWorkflows(Message, frozen=True):
    """List workflows by name, from `offset` on."""

    ask: f.Number
    limit: f.Number
    offset: f.Number


class StepFacts(Item, frozen=True):
    """A step: the model that runs it, how often it is tried again, how long a try may take, what follows it.

    Steps stand in the order of the workflow's spec. `is_in_dag` is false for one that the spec names only as
    what follows others.
    """

    name: f.Said
    model: f.Said
    retry_attempts: f.Number32
    timeout_ms: f.Milliseconds
    successors: tuple[f.Said, ...]
    is_in_dag: bool


class WorkflowEntry(Item, frozen=True):
    """A line of the list."""

    workflow: f.Said
    url: f.Prose


class WorkflowRegistered(Message, frozen=True):
    """The workflow is stored, and its models have their workers."""

    ask: f.Number
    workflow: f.Said


class WorkflowUnregistered(Message, frozen=True):
    """The workflow is gone, and its models."""

    ask: f.Number
    workflow: f.Said


class WorkflowDescribed(Message, frozen=True):
    """A workflow; the numbers are what its spec says for all models."""

    ask: f.Number
    workflow: f.Said
    url: f.Prose
    min_workers: f.Whole
    max_workers: f.Whole
    batch_size: f.Whole
    max_batch_delay_ms: f.Whole
    steps: Annotated[tuple[StepFacts, ...], Meta(max_length=STEPS_LIMIT)]


class WorkflowsListed(Message, frozen=True):
    """A page of the list; `next_offset` as in ModelsListed."""

    ask: f.Number
    workflows: tuple[WorkflowEntry, ...]
    next_offset: f.Number | None
