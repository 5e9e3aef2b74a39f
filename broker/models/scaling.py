"""How a version's number of workers is changed: stored, and waited for if the caller wants to. Pure."""

from torchrelay.broker.models import awaiting_workers
from torchrelay.broker.models.records import SetTargets
from torchrelay.broker.models.running_changes import RunningChanges
from torchrelay.broker.models.steps import Caller, Scaling
from torchrelay.shared import errors
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import messages as m


def begin(running: RunningChanges, caller: Caller, ask: m.ScaleWorkers) -> None:
    """Have new targets stored. Raises ModelNotFound, ModelVersionNotFound or BadRequest."""
    record = running.catalog.resolve(ask.model, ask.version)
    if not 0 <= ask.min_workers <= ask.max_workers:
        raise errors.BadRequest("max_worker cannot be less than min_worker.")
    check_target(ask.min_workers, running.settings)
    step = Scaling(caller, ask, record)
    running.store(step, _change(step))


def stored(running: RunningChanges, step: Scaling, error: errors.RelayError | None, now: float) -> None:
    """Apply targets that are durable, and answer the caller or let it wait for workers."""
    ask, record = step.ask, step.record
    key = (record.model, record.version)
    if error is None and running.catalog.get(key) is None:
        error = errors.ModelNotFound(f"Model not found: {ask.model}")
    if error:
        running.refuse(step.caller, error)
        return
    running.catalog.apply(_change(step))
    running.fleet.forgive(key)
    running.patience_s[key] = ask.drain_timeout_s
    reply = m.WorkersScaled(ask.ask, ask.synchronous)
    if not ask.synchronous:
        running.succeed(step.caller, reply)
        return
    text = f"Failed to start workers for model {ask.model} version: {ask.version or 'null'}"
    awaiting_workers.begin(running, step.caller, record, reply, text, now, rolls_back=False)


def check_target(workers: int, settings: BrokerSettings) -> None:
    """Raise BadRequest for more workers than a version may have."""
    if workers > settings.workers_limit:
        raise errors.BadRequest(
            f"{workers} workers are above the limit of workers_limit ({settings.workers_limit})."
        )


def _change(step: Scaling) -> SetTargets:
    return SetTargets(step.record.model, step.record.version, step.ask.min_workers, step.ask.max_workers)
