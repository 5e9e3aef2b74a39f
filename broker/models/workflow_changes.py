"""How a workflow is registered and unregistered, with the models that are its steps. Pure.

First its archive is read, then those of its models; then all of it is stored at once, or none of it. The
models' workers start as those of any other, and where they can't, all of it is removed again.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace

from torchrelay.broker.core.effects import DropArchive, Prepare, PrepareWorkflow, Report
from torchrelay.broker.models import precedence
from torchrelay.broker.models.origins import parse
from torchrelay.broker.models.records import (
    Prepared,
    PreparedWorkflow,
    PutWorkflow,
    RemoveWorkflow,
    VersionRecord,
    WorkflowRecord,
    model_of_step,
)
from torchrelay.broker.models.running_changes import (
    AwaitingExits,
    AwaitingStepWorkers,
    Caller,
    PreparingStep,
    PreparingSteps,
    PreparingWorkflow,
    RegisteringWorkflow,
    RemovingWorkflow,
    RunningChanges,
)
from torchrelay.broker.models.version_changes import (
    PLACEMENT_PATIENCE_S,
    WAIT_SLACK_S,
    check_target,
    has_its_workers,
    wont_get_its_workers,
)
from torchrelay.shared import errors
from torchrelay.shared.archives.workflow_spec import WorkflowStep
from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire import messages as m


def register(running: RunningChanges, caller: Caller, ask: m.RegisterWorkflow) -> None:
    """Have the archive prepared that a caller names."""
    token = running.enter(PreparingWorkflow(caller, ask))
    running.emit(PrepareWorkflow(token, parse(ask.url), ask.s3_sse_kms))


def prepared(running: RunningChanges, token: int, outcome: PreparedWorkflow | errors.RelayError) -> None:
    """Have the archives of a workflow's models prepared, of which its own tells."""
    begun = running.steps.pop(token)
    assert isinstance(begun, PreparingWorkflow), begun
    caller, ask = begun.caller, begun.ask
    if isinstance(outcome, errors.RelayError):
        running.refuse(caller, outcome)
        running.drop_unused_archives()
        return
    name = ask.workflow_name or outcome.name
    try:
        precedence.check_reachable("Workflow name", name)
        if name in running.catalog.workflows or _is_being_registered(running, name):
            raise errors.Conflict(f"Workflow {name} is already registered.")
    except errors.RelayError as error:
        _refuse(running, caller, ask.url, error, [(outcome.archive, "")])
        return
    steps = PreparingSteps(caller, ask, name, outcome)
    if not steps.urls:
        _store(running, steps)
        return
    of_workflow = running.enter(steps)
    for url in steps.urls:
        of_step = running.enter(PreparingStep(of_workflow, url))
        running.emit(Prepare(of_step, parse(url), ask.s3_sse_kms, is_wanted_now=True))


def step_prepared(running: RunningChanges, token: int, outcome: Prepared | errors.RelayError) -> None:
    """Note what came of an archive of its models, and go on when all are there."""
    step = running.steps.pop(token)
    assert isinstance(step, PreparingStep), step
    steps = running.steps[step.workflow]
    assert isinstance(steps, PreparingSteps), steps
    steps = replace(steps, outcomes=(*steps.outcomes, (step.url, outcome)))
    running.steps[step.workflow] = steps
    if len(steps.outcomes) == len(steps.urls):
        del running.steps[step.workflow]
        _store(running, steps)


def _store(running: RunningChanges, steps: PreparingSteps) -> None:
    """Have a workflow and its versions stored, or refuse it where one of them can't be registered."""
    outcomes = dict(steps.outcomes)
    versions: list[VersionRecord] = []
    failures: list[str] = []
    details: list[str] = []
    for step in steps.prepared.spec.steps:
        try:
            outcome = None if step.is_function else outcomes[step.url]
            versions.append(_version(running, steps, step, outcome))
        except errors.RelayError as error:
            model = model_of_step(steps.name, step.name)
            failures.append(f"Workflow Node {model} failed to register. Details: {error.message}")
            if error.details:
                details.append(f"{step.name}: {error.details}")
    if failures:
        used = [(one.archive, url) for url, one in steps.outcomes if isinstance(one, Prepared)]
        failed = _failure(steps.name, failures, details)
        _refuse(running, steps.caller, steps.ask.url, failed, [(steps.prepared.archive, ""), *used])
        return
    running.let_go[steps.prepared.archive, ""] = None  # used by functions alone
    record = WorkflowRecord(steps.name, steps.ask.url, steps.prepared.spec)
    change = PutWorkflow(record, tuple(versions))
    running.store(RegisteringWorkflow(steps.caller, steps.ask, record, change.versions), change)


def _version(
    running: RunningChanges,
    steps: PreparingSteps,
    step: WorkflowStep,
    outcome: Prepared | errors.RelayError | None,
) -> VersionRecord:
    """Make the record of a step. Raises what `precedence.settle` does, and Conflict."""
    if isinstance(outcome, errors.RelayError):
        raise outcome
    workflow = steps.prepared
    if outcome is None:
        # A function's: the workflow's own archive, with that function for its entry point.
        outcome = Prepared(
            workflow.archive, workflow.archive_bytes, "", "", f"{workflow.handler}:{step.name}", "python", "",
            path=workflow.path,
        )  # fmt: skip
    settings = step.settings
    ask = m.RegisterModel(
        0,
        step.url,
        model_name=model_of_step(steps.name, step.name),
        batch_size=settings.batch_size,
        max_batch_delay_ms=settings.max_batch_delay_ms,
        response_timeout_s=steps.ask.response_timeout_s,
        startup_timeout_s=steps.ask.startup_timeout_s,
    )
    record = replace(
        precedence.settle(ask, outcome, running.settings),
        # Nothing scales between the two; TorchServe starts as many as there may be.
        min_workers=settings.max_workers,
        max_workers=settings.max_workers,
        registration=running.new_registration(),
        workflow=steps.name,
    )
    check_target(record.max_workers, running.settings)
    if running.catalog.get(record.key) or running.is_being_registered(record.key):
        raise errors.Conflict(
            f"Model version {record.version} is already registered for model {record.model}"
        )
    return record


def _is_being_registered(running: RunningChanges, name: str) -> bool:
    preparing = any(step.name == name for _, step in running.of_kind(PreparingSteps))
    return preparing or any(step.record.name == name for _, step in running.of_kind(RegisteringWorkflow))


def stored(
    running: RunningChanges, step: RegisteringWorkflow, error: errors.RelayError | None, now: float
) -> None:
    """Show a workflow that is durable, and let its caller wait for workers."""
    if error:
        used = [(record.archive, record.url) for record in step.versions]
        _refuse(running, step.caller, step.ask.url, error, used)
        return
    running.catalog.apply(PutWorkflow(step.record, step.versions))
    for record in step.versions:
        running.fleet.forgive(record.key)
    running.drop_unused_archives()
    facts: dict[str, object] = {"workflow": step.record.name, "steps": len(step.versions)}
    running.emit(Report(logging.INFO, "workflow.registered", facts))
    slowest_s = max(record.startup_timeout_s for record in step.versions)
    deadline, placed_by = now + slowest_s + WAIT_SLACK_S, now + PLACEMENT_PATIENCE_S
    running.enter(AwaitingStepWorkers(step.caller, step.ask, step.record, deadline, placed_by))


def check_waiting(running: RunningChanges, now: float) -> None:
    """Answer the callers whose workflows have all workers; remove a workflow that won't get them."""
    for token, step in running.of_kind(AwaitingStepWorkers):
        name = step.record.name
        if running.catalog.workflows.get(name) is not step.record:
            del running.steps[token]
            running.refuse(step.caller, errors.WorkflowNotFound(f"Workflow not found: {quoted(name)}"))
            continue
        versions = running.catalog.steps_of(name)
        lacking = [
            one for one in versions if wont_get_its_workers(running, one, step.deadline, step.placed_by, now)
        ]
        if lacking:
            del running.steps[token]
            error = _failure(
                name,
                [f"Failed to start workers for model {one.model} version: {one.version}" for one in lacking],
                [f"{one.model}: {_why_lacking(running, one, now)}" for one in lacking],
            )
            running.store(RemovingWorkflow(step.caller, step.ask, step.record, error), RemoveWorkflow(name))
        elif all(has_its_workers(running, one) for one in versions):
            del running.steps[token]
            running.succeed(step.caller, m.WorkflowRegistered(step.ask.ask, name))


def _why_lacking(running: RunningChanges, record: VersionRecord, now: float) -> str:
    return running.fleet.condition(record.key).last_error or running.fleet.explain(record, now)


def unregister(running: RunningChanges, caller: Caller, ask: m.UnregisterWorkflow) -> None:
    """Have a workflow removed. Raises WorkflowNotFound."""
    record = running.catalog.workflow(ask.workflow)
    running.store(RemovingWorkflow(caller, ask, record), RemoveWorkflow(record.name))


def removed(
    running: RunningChanges, step: RemovingWorkflow, error: errors.RelayError | None, now: float
) -> None:
    """Drop a workflow that is durably removed, and answer its caller or let it wait for workers to end."""
    name, caller = step.record.name, step.caller
    if error:
        running.refuse(caller, error)
        return
    versions = running.catalog.steps_of(name)
    running.catalog.apply(RemoveWorkflow(name))
    for record in versions:
        running.fleet.forgive(record.key)
    _let_go(running, step.record.url, [(record.archive, record.url) for record in versions])
    running.emit(Report(logging.INFO, "workflow.unregistered", {"workflow": name}))
    if isinstance(step.ask, m.RegisterWorkflow):
        running.refuse(caller, step.error or errors.WorkflowNotFound(f"Workflow not found: {name}"))
        return
    keys = [record.key for record in versions]
    ids = frozenset(worker.worker_id for key in keys for worker in running.fleet.of_version(key))
    deadline = now + running.settings.unregister_timeout_s
    running.enter(AwaitingExits(caller, name, m.WorkflowUnregistered(step.ask.ask, name), ids, deadline))


def _failure(name: str, failures: Iterable[str], details: Iterable[str]) -> errors.WorkflowFailed:
    text = f"Workflow {name} has failed to register. Failures: [{', '.join(failures)}]"
    return errors.WorkflowFailed(text, "; ".join(details))


def _refuse(
    running: RunningChanges,
    caller: Caller,
    url: str,
    error: errors.RelayError,
    used: Iterable[tuple[str, str]],
) -> None:
    """Refuse the registration of what is at `url`, and let go of what it had fetched."""
    _let_go(running, url, used)
    running.refuse(caller, error)


def _let_go(running: RunningChanges, url: str, used: Iterable[tuple[str, str]]) -> None:
    """Have deleted what nothing uses: (archive, url) of steps, and what came from a workflow's url."""
    running.let_go.update(dict.fromkeys(used))
    running.drop_unused_archives()
    if not any(one.url == url for one in running.catalog.workflows.values()):
        running.emit(DropArchive("", parse(url), is_workflow=True))
