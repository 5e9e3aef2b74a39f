"""How a version is scaled, made the default or unregistered, and who waits for its workers. Pure."""

import logging

from torchrelay.broker.core.effects import Report
from torchrelay.broker.models.records import RemoveVersion, SetDefaultVersion, SetTargets, VersionRecord
from torchrelay.broker.models.running_changes import (
    AwaitingExits,
    AwaitingWorkers,
    Caller,
    Removing,
    RollingBack,
    RunningChanges,
    Scaling,
    SettingDefault,
)
from torchrelay.shared import errors
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import messages as m

#: A caller that waits for workers hears of a fleet without room after the model's startup_timeout and
#: this much more, so that a worker's own startup_timeout is told first.
WAIT_SLACK_S = 5.0
#: How long such a caller waits for a node to join that can hold what no node here could.
PLACEMENT_PATIENCE_S = 15.0


def scale(running: RunningChanges, caller: Caller, ask: m.ScaleWorkers) -> None:
    """Have new targets stored. Raises ModelNotFound, ModelVersionNotFound or BadRequest."""
    record = running.catalog.resolve(ask.model, ask.version)
    if not 0 <= ask.min_workers <= ask.max_workers:
        raise errors.BadRequest("max_worker cannot be less than min_worker.")
    check_target(ask.min_workers, running.settings)
    step = Scaling(caller, ask, record)
    running.store(step, _targets(step))


def scaled(running: RunningChanges, step: Scaling, error: errors.RelayError | None, now: float) -> None:
    """Apply targets that are durable, and answer the caller or let it wait for workers."""
    ask, record = step.ask, step.record
    if error is None and running.catalog.get(record.key) is None:
        error = errors.ModelNotFound(f"Model not found: {ask.model}")
    if error:
        running.refuse(step.caller, error)
        return
    running.catalog.apply(_targets(step))
    running.fleet.forgive(record.key)
    running.patience_s[record.key] = ask.drain_timeout_s
    reply = m.WorkersScaled(ask.ask, ask.synchronous)
    if not ask.synchronous:
        running.succeed(step.caller, reply)
        return
    text = f"Failed to start workers for model {ask.model} version: {ask.version or 'null'}"
    deadline = now + record.startup_timeout_s + WAIT_SLACK_S
    placed_by = now + PLACEMENT_PATIENCE_S
    running.enter(AwaitingWorkers(step.caller, record.key, reply, text, deadline, placed_by=placed_by))


def check_target(workers: int, settings: BrokerSettings) -> None:
    """Raise BadRequest for more workers than a version may have."""
    if workers > settings.workers_limit:
        raise errors.BadRequest(
            f"{workers} workers are above the limit of workers_limit ({settings.workers_limit})."
        )


def _targets(step: Scaling) -> SetTargets:
    return SetTargets(*step.record.key, step.ask.min_workers, step.ask.max_workers)


def set_default(running: RunningChanges, caller: Caller, ask: m.SetDefault) -> None:
    """Have a default stored. Raises ModelNotFound or ModelVersionNotFound."""
    running.catalog.resolve(ask.model, None)
    _check_known(running, ask)
    running.store(SettingDefault(caller, ask), SetDefaultVersion(ask.model, ask.version))


def default_set(running: RunningChanges, step: SettingDefault, error: errors.RelayError | None) -> None:
    """Apply a default that is durable, and answer its caller."""
    ask = step.ask
    try:
        if error:
            raise error
        running.catalog.apply(SetDefaultVersion(ask.model, ask.version))
        _check_known(running, ask)  # it may have been removed meanwhile
    except errors.RelayError as why:
        running.refuse(step.caller, why)
    else:
        running.succeed(step.caller, m.DefaultSet(ask.ask))


def _check_known(running: RunningChanges, ask: m.SetDefault) -> None:
    if running.catalog.get((ask.model, ask.version)) is None:
        raise errors.ModelVersionNotFound(
            f"Model version {quoted(ask.version)} does not exist for model {ask.model}"
        )


def remove(running: RunningChanges, caller: Caller, ask: m.UnregisterModel) -> None:
    """Have a version removed. Raises ModelNotFound, ModelVersionNotFound or InvalidModelVersion."""
    running.catalog.forget_not_loaded(ask.model)
    record = running.catalog.resolve(ask.model, ask.version)
    if record.workflow:
        raise errors.Conflict(
            f"Model {record.model} is a step of workflow {record.workflow}: unregister the workflow."
        )
    if running.catalog.is_default(record) and len(running.catalog.versions_of(record.model)) > 1:
        raise errors.InvalidModelVersion(f"Cannot remove default version for model {record.model}")
    running.store(Removing(caller, ask, record), RemoveVersion(*record.key))


def removed(
    running: RunningChanges, step: Removing | RollingBack, error: errors.RelayError | None, now: float
) -> None:
    """Drop a version that is durably removed, and answer its caller or let it wait for workers to end."""
    record = step.record
    if error is None:
        running.catalog.apply(RemoveVersion(*record.key))
        running.fleet.forgive(record.key)
        running.let_go[record.archive, record.url] = None
        running.drop_unused_archives()
        facts: dict[str, object] = {"model": record.model, "version": record.version}
        running.emit(Report(logging.INFO, "model.unregistered", facts))
    if isinstance(step, RollingBack):
        running.refuse(step.caller, error or step.error)
    elif error:
        running.refuse(step.caller, error)
    else:
        # Answered when the workers' memory is free again, since what comes next may need it.
        ids = frozenset(worker.worker_id for worker in running.fleet.of_version(record.key))
        deadline = now + running.settings.unregister_timeout_s
        reply = m.ModelUnregistered(step.ask.ask, step.ask.model)
        running.enter(AwaitingExits(step.caller, step.ask.model, reply, ids, deadline))


def check_waiting(running: RunningChanges, now: float) -> None:
    """Answer the callers whose workers are all there, or gone; or won't be."""
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
    for token, exits in running.of_kind(AwaitingExits):
        if not exits.worker_ids & running.fleet.workers.keys():
            del running.steps[token]
            running.succeed(exits.caller, exits.reply)
        elif now >= exits.deadline:
            del running.steps[token]
            error = errors.RequestTimeout(f"Timed out while cleaning resources: {exits.name}")
            running.refuse(exits.caller, error)


def _has_come_about(running: RunningChanges, step: AwaitingWorkers, record: VersionRecord) -> bool:
    key = step.key
    if step.for_install:
        return not (running.fleet.is_installing(key) or running.fleet.condition(key).failed_installing)
    return has_its_workers(running, record)


def has_its_workers(running: RunningChanges, record: VersionRecord) -> bool:
    """Tell whether a version has as many workers that are ready as it should, and no more than it may."""
    return (
        running.fleet.ready_count(record.key) >= record.min_workers
        and len(running.fleet.of_version(record.key)) <= record.max_workers
    )


def _has_failed(running: RunningChanges, step: AwaitingWorkers, record: VersionRecord, now: float) -> bool:
    if step.for_install:
        return running.fleet.condition(step.key).failed_installing
    return wont_get_its_workers(running, record, step.deadline, step.placed_by, now)


def wont_get_its_workers(
    running: RunningChanges, record: VersionRecord, deadline: float, placed_by: float, now: float
) -> bool:
    """Tell whether a worker has failed, or none is being started that is missing: by then they should be.

    Those that start have a limit of their own.
    """
    is_hopeless = running.fleet.live_count(record.key) < record.min_workers and (
        now >= deadline or (now >= placed_by and running.fleet.has_no_place_for(record))
    )
    return running.fleet.condition(record.key).failures > 0 or is_hopeless


def _fail(running: RunningChanges, step: AwaitingWorkers, record: VersionRecord, now: float) -> None:
    condition = running.fleet.condition(step.key)
    details = condition.last_error or running.fleet.explain(record, now)
    cls = errors.OutOfResources if condition.is_out_of_memory else errors.WorkerStartFailed
    error: errors.RelayError = cls(step.failed_text, details)
    if isinstance(step.reply, m.WorkersScaled):
        running.refuse(step.caller, error)
        return
    if condition.failed_installing:
        text = f"Custom pip package installation failed for model {record.model}"
        error = errors.DependenciesFailed(text, details)
    # A registration whose workers fail is taken back, as in TorchServe.
    running.store(RollingBack(step.caller, record, error), RemoveVersion(*record.key))
