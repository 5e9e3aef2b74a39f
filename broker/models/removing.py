"""How a version is unregistered: removed from the registry, and its workers waited for. Pure."""

import logging

from torchrelay.broker.core.effects import Report
from torchrelay.broker.models import unused_archives
from torchrelay.broker.models.records import RemoveVersion, VersionRecord
from torchrelay.broker.models.running_changes import RunningChanges
from torchrelay.broker.models.steps import AwaitingExits, Caller, Removing, RollingBack
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m


def begin(running: RunningChanges, caller: Caller, ask: m.UnregisterModel) -> None:
    """Have a version removed. Raises ModelNotFound, ModelVersionNotFound or InvalidModelVersion."""
    record = running.catalog.resolve(ask.model, ask.version)
    running.catalog.check_removable(record)
    _store(running, Removing(caller, ask, record))


def roll_back(
    running: RunningChanges, caller: Caller, record: VersionRecord, error: errors.RelayError
) -> None:
    """Have a version removed whose workers did not start; its caller is told the error then."""
    _store(running, RollingBack(caller, record, error))


def _store(running: RunningChanges, step: Removing | RollingBack) -> None:
    running.store(step, RemoveVersion(step.record.model, step.record.version))


def stored(
    running: RunningChanges, step: Removing | RollingBack, error: errors.RelayError | None, now: float
) -> None:
    """Drop a version that is durably removed, and answer its caller or let it wait for workers to end."""
    record = step.record
    key = model, version = record.model, record.version
    if error is None:
        running.catalog.apply(RemoveVersion(model, version))
        running.fleet.forgive(key)
        unused_archives.add(running, record.archive, record.url)
        unused_archives.drop(running)
        running.emit(Report(logging.INFO, "model.unregistered", {"model": model, "version": version}))
    if isinstance(step, RollingBack):
        running.refuse(step.caller, error or step.error)
    elif error:
        running.refuse(step.caller, error)
    else:
        # Answered when the workers' memory is free again, since what comes next may need it.
        ids = frozenset(worker.worker_id for worker in running.fleet.of_version(key))
        deadline = now + running.settings.unregister_timeout_s
        running.enter(AwaitingExits(step.caller, step.ask, ids, deadline))


def check_exits(running: RunningChanges, now: float) -> None:
    """Answer the callers whose unregistered workers are gone, or take too long."""
    for token, step in running.of_kind(AwaitingExits):
        model = step.ask.model
        if not step.worker_ids & running.fleet.workers.keys():
            del running.steps[token]
            running.succeed(step.caller, m.ModelUnregistered(step.ask.ask, model))
        elif now >= step.deadline:
            del running.steps[token]
            error = errors.RequestTimeout(f"Timed out while cleaning resources: {model}")
            running.refuse(step.caller, error)
