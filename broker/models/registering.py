"""How a version is registered: its archive prepared, its record stored, its caller answered. Pure.

At start nobody asks: then the first version of a name is its default, whichever archive is prepared first.
"""

import logging
from dataclasses import replace
from math import inf

from torchrelay.broker.core.effects import Prepare, Report
from torchrelay.broker.models import running_changes
from torchrelay.broker.models.origins import file_of, parse, without_query
from torchrelay.broker.models.precedence import settle, starts_workers
from torchrelay.broker.models.records import Prepared, PutVersion, SetDefaultVersion, VersionRecord
from torchrelay.broker.models.running_changes import Caller, Preparing, Registering, RunningChanges
from torchrelay.broker.models.version_changes import PLACEMENT_PATIENCE_S, WAIT_SLACK_S, check_target
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m

#: How often a model of the start is tried again that could not be fetched or stored.
LOAD_AGAIN_S = 30.0
#: What such a failure is; archives that are not there, or can't be served, stay so.
TRANSIENT = (errors.DownloadFailed, errors.StoreFailed)


def begin(running: RunningChanges, step: Preparing) -> None:
    """Have the archive prepared that a caller, or the start, names."""
    ask = step.ask
    is_wanted_now = starts_workers(ask, step.restored, running.settings, step.caller is None)
    running.emit(Prepare(running.enter(step), parse(ask.url), ask.s3_sse_kms, is_wanted_now))


def prepared(running: RunningChanges, token: int, outcome: Prepared | errors.RelayError) -> None:
    """Go on with an archive; one of the start, once those named before it are prepared, too."""
    step = running.steps[token]
    assert isinstance(step, Preparing), step
    if step.caller is not None:
        del running.steps[token]
        _take_prepared(running, step, outcome)
        return
    running.steps[token] = replace(step, outcome=outcome)
    for first, at_start in running.of_kind(Preparing):
        if at_start.caller is not None:
            continue
        if at_start.outcome is None:
            break
        del running.steps[first]
        _take_prepared(running, at_start, at_start.outcome)


def _take_prepared(running: RunningChanges, begun: Preparing, outcome: Prepared | errors.RelayError) -> None:
    try:
        if isinstance(outcome, errors.RelayError):
            raise outcome
        _store(running, begun, outcome)
    except errors.RelayError as error:
        if isinstance(outcome, Prepared):
            running.let_go[outcome.archive, begun.ask.url] = None
        _refuse(running, begun, error, outcome if isinstance(outcome, Prepared) else None)
    running.drop_unused_archives()


def _store(running: RunningChanges, begun: Preparing, prepared: Prepared) -> None:
    at_start, restored = begun.caller is None, begun.restored
    record = settle(begun.ask, prepared, running.settings, at_start=at_start, restored=restored)
    check_target(record.min_workers, running.settings)
    record = replace(record, registration=running.new_registration())
    known = running.catalog.get(record.key)
    if not at_start and (known or running.is_being_registered(record.key)):
        raise errors.Conflict(
            f"Model version {record.version} is already registered for model {record.model}"
        )
    if known and known.archive == record.archive and not restored:
        _end_loading(running, begun)
        return  # a restart: what was scaled or set since holds
    running.store(Registering(begun, record, prepared, known), PutVersion(record))


def stored(running: RunningChanges, step: Registering, error: errors.RelayError | None, now: float) -> None:
    """Show a version that is durable, and answer its caller or let it wait for workers."""
    begun, record = step.begun, step.record
    if error:
        running.let_go[record.archive, record.url] = None
        running.drop_unused_archives()
        _refuse(running, begun, error, step.prepared)
        return
    running.catalog.apply(PutVersion(record))
    running.fleet.forgive(record.key)
    if step.replaced:
        running.let_go[step.replaced.archive, step.replaced.url] = None
    running.drop_unused_archives()
    _report(running, record, step.prepared)
    if begun.restored and begun.restored.is_default:
        running.store(running_changes.RestoringDefault(begun, record.key), SetDefaultVersion(*record.key))
    elif begun.caller is None:
        _end_loading(running, begun)
    else:
        _answer(running, begun.caller, begun.ask, record, now)


def default_restored(
    running: RunningChanges, step: running_changes.RestoringDefault, error: errors.RelayError | None
) -> None:
    """End the registration of a version that a snapshot has as the default."""
    model, version = step.key
    if error:
        facts: dict[str, object] = {"model": model, "version": version, "reason": str(error)}
        running.emit(Report(logging.ERROR, "model.default_not_set", facts))
    else:
        running.catalog.apply(SetDefaultVersion(model, version))
    _end_loading(running, step.begun)


def _report(running: RunningChanges, record: VersionRecord, prepared: Prepared) -> None:
    emit, model = running.emit, {"model": record.model, "version": record.version}
    emit(Report(logging.INFO, "model.registered", {**model, "workers": record.min_workers}))
    if prepared.is_packed:
        reason = "its workers see the folder as it is now; after an edit, register it again"
        emit(Report(logging.INFO, "model.folder_packed", {**model, "reason": reason}))
    for warning in prepared.config_warnings:
        emit(Report(logging.WARNING, "model.config_ignored", {**model, "reason": warning}))


def _answer(
    running: RunningChanges, caller: Caller, ask: m.RegisterModel, record: VersionRecord, now: float
) -> None:
    is_done = ask.synchronous or record.min_workers == 0
    reply = m.ModelRegistered(ask.ask, record.model, record.version, record.min_workers, is_done)
    for_install = not (ask.synchronous and record.min_workers > 0)
    if for_install and not running.installs_packages(record):
        running.succeed(caller, reply)
        return
    if record.min_workers == 0:
        running.fleet.install(record.key)
    text = f"Failed to start workers for model {record.model} version: {record.version}"
    deadline = now + record.startup_timeout_s + WAIT_SLACK_S
    placed_by = now + PLACEMENT_PATIENCE_S
    running.enter(
        running_changes.AwaitingWorkers(caller, record.key, reply, text, deadline, for_install, placed_by)
    )


def _refuse(
    running: RunningChanges, begun: Preparing, error: errors.RelayError, prepared: Prepared | None
) -> None:
    if begun.caller is not None:
        running.refuse(begun.caller, error)
        return
    # The reason repeats the url, too.
    url, shown = begun.ask.url, without_query(begun.ask.url)
    reason = str(error).replace(url, shown) if url else str(error)
    facts: dict[str, object] = {"url": shown, "reason": reason}
    is_transient = isinstance(error, TRANSIENT)
    if is_transient:
        facts["retry_in_s"] = LOAD_AGAIN_S
    running.emit(Report(logging.WARNING if is_transient else logging.ERROR, "model.not_loaded", facts))
    name = begun.ask.model_name or (prepared and (prepared.model_name or prepared.file_name)) or name_of(url)
    running.catalog.could_not_load(m.NotLoaded(name, shown, reason))
    if is_transient:
        running.load_again.append(begun)
    _end_loading(running, begun)


def name_of(url: str) -> str:
    """Return the name by which callers know an archive that can't be read: its file's, as a rule."""
    name = file_of(url)
    return name.removesuffix(".mar").removesuffix(".model")


def load_again(running: RunningChanges, now: float) -> None:
    """Try again, at a bounded pace, what could not be loaded at start for a reason that may pass."""
    if not running.load_again or now < running.load_again_at:
        return
    missing = {one.url for one in running.catalog.not_loaded}
    if running.load_again_at > -inf:
        due, running.load_again = running.load_again, []
        for begun in due:
            if without_query(begun.ask.url) in missing:  # else somebody has registered or given up the model
                begin(running, replace(begun, outcome=None))
    running.load_again_at = now + LOAD_AGAIN_S


def _end_loading(running: RunningChanges, begun: Preparing) -> None:
    if begun.ask.url in running.loading:  # not where it is tried again
        running.loading.remove(begun.ask.url)
    running.fleet.must_reconcile = True
