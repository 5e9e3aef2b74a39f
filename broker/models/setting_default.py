"""How the version is changed that answers when a request names none. Pure."""

from torchrelay.broker.models.records import SetDefaultVersion
from torchrelay.broker.models.running_changes import RunningChanges
from torchrelay.broker.models.steps import Caller, SettingDefault
from torchrelay.shared import errors
from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire import messages as m


def begin(running: RunningChanges, caller: Caller, ask: m.SetDefault) -> None:
    """Have a default stored. Raises ModelNotFound or ModelVersionNotFound."""
    running.catalog.resolve(ask.model, None)
    _check_known(running, ask)
    running.store(SettingDefault(caller, ask), SetDefaultVersion(ask.model, ask.version))


def stored(running: RunningChanges, step: SettingDefault, error: errors.RelayError | None) -> None:
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
