"""How access keys are renewed: one after the other, durable before they open anything. Pure."""

import logging

from torchrelay.broker.core.effects import KeepKeys, Report
from torchrelay.broker.models.running_changes import RunningChanges
from torchrelay.broker.models.steps import AwaitingRenewal, Caller, Renewing
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m


def begin(running: RunningChanges, caller: Caller, ask: m.RenewKey, now: float) -> None:
    """Have keys made and stored as soon as no other renewal is being stored."""
    running.enter(AwaitingRenewal(caller, ask))
    if not any(running.of_kind(Renewing)):
        _begin_next(running, now)


def _begin_next(running: RunningChanges, now: float) -> None:
    for token, step in running.of_kind(AwaitingRenewal):
        del running.steps[token]
        try:
            made = running.keys.renew(step.ask.api, now)
        except errors.RelayError as error:
            running.refuse(step.caller, error)
            continue
        running.emit(KeepKeys(running.enter(Renewing(step.caller, step.ask, made)), made))
        return


def stored(running: RunningChanges, step: Renewing, error: errors.RelayError | None, now: float) -> None:
    """Use keys that are durable, tell gateways and the caller, and begin the next renewal."""
    api = step.ask.api
    if error:
        facts: dict[str, object] = {"api": api, "reason": str(error)}
        running.emit(Report(logging.ERROR, "key.not_renewed", facts))
        running.refuse(step.caller, error)
    else:
        running.keys.use(step.made)
        running.emit(Report(logging.INFO, "key.renewed", {"api": api}))
        # Before the answer: whoever reads the new key then finds that it opens.
        running.tell_gateways(running.keys.message(now))
        running.reply(step.caller, m.KeyRenewed(step.ask.ask))
    _begin_next(running, now)
