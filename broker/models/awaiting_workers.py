"""When a caller that waits for workers is answered: they are there, or one of them failed to start. Pure."""

from torchrelay.broker.models import removing
from torchrelay.broker.models.records import VersionRecord
from torchrelay.broker.models.running_changes import RunningChanges
from torchrelay.broker.models.steps import AwaitingWorkers, Caller
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m

#: A caller that waits for workers hears of a fleet without room after the model's startup_timeout and
#: this much more, so that a worker's own startup_timeout is told first.
WAIT_SLACK_S = 5.0


def begin(
    running: RunningChanges,
    caller: Caller,
    record: VersionRecord,
    reply: m.ModelRegistered | m.WorkersScaled,
    failed_text: str,
    now: float,
    *,
    rolls_back: bool,
    for_install: bool = False,
) -> None:
    """Let a caller wait for a version; see AwaitingWorkers."""
    key, deadline = (record.model, record.version), now + record.startup_timeout_s + WAIT_SLACK_S
    running.enter(AwaitingWorkers(caller, key, reply, failed_text, rolls_back, deadline, for_install))


def check(running: RunningChanges, now: float) -> None:
    """Answer the callers whose workers are all there, or won't be."""
    for token, step in running.of_kind(AwaitingWorkers):
        record = running.catalog.get(step.key)
        if record is None:
            del running.steps[token]
            running.refuse(step.caller, errors.ModelNotFound(f"Model not found: {step.key[0]}"))
        elif _has_come_about(running, step, record):
            del running.steps[token]
            running.succeed(step.caller, step.reply)
        elif _has_failed(running, step, record, now):
            del running.steps[token]
            _fail(running, step, record, now)


def _has_come_about(running: RunningChanges, step: AwaitingWorkers, record: VersionRecord) -> bool:
    key = step.key
    if step.for_install:
        return not (running.fleet.is_installing(key) or running.fleet.condition(key).failed_installing)
    return (
        len(running.fleet.ready(key)) >= record.min_workers
        and len(running.fleet.of_version(key)) <= record.max_workers
    )


def _has_failed(running: RunningChanges, step: AwaitingWorkers, record: VersionRecord, now: float) -> bool:
    condition = running.fleet.condition(step.key)
    if step.for_install:
        return condition.failed_installing
    # Workers may be missing that nobody is starting; those that start have their own limit.
    is_hopeless = now >= step.deadline and len(running.fleet.live(step.key)) < record.min_workers
    return condition.failures > 0 or is_hopeless


def _fail(running: RunningChanges, step: AwaitingWorkers, record: VersionRecord, now: float) -> None:
    condition = running.fleet.condition(step.key)
    details = condition.last_error or running.fleet.explain(record, now)
    cls = errors.OutOfResources if condition.is_out_of_memory else errors.WorkerStartFailed
    error: errors.RelayError = cls(step.failed_text, details)
    if step.rolls_back and condition.failed_installing:
        text = f"Custom pip package installation failed for model {record.model}"
        error = errors.DependenciesFailed(text, details)
    if step.rolls_back:
        removing.roll_back(running, step.caller, record, error)
    else:
        running.refuse(step.caller, error)
