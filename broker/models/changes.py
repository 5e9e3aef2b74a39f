"""Changes of models and keys that callers of the management API ask for, and those of the start. Pure.

What is done at the steps of each change is in `registering`, `version_changes` and `workflow_changes`, and
for keys here. Here changes are begun, and go on as events come back.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from torchrelay.broker.core.effects import KeepKeys, Report
from torchrelay.broker.core.events import ArchivePrepared, Stored, WorkflowPrepared
from torchrelay.broker.models import registering, running_changes, version_changes, workflow_changes
from torchrelay.broker.models.catalog import Key
from torchrelay.broker.models.records import RememberNodes
from torchrelay.broker.models.running_changes import Caller, Preparing, Renewing, RunningChanges
from torchrelay.shared import errors
from torchrelay.shared.settings import LoadAtStart, StartupModel
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import KeyedApi


@dataclass(slots=True, eq=False, repr=False)
class Management(RunningChanges):
    """Begins changes and takes them further; they write the catalog, and read the fleet."""

    _has_started: bool = False
    #: Those of the last start, or of the last change since.
    _remembered_nodes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._remembered_nodes = tuple(sorted(self.fleet.awaited))

    @property
    def is_starting(self) -> bool:
        """Whether models of the start are missing: not registered, by this start or an earlier one."""
        if not self.loading:
            return False
        registered = {record.url for record in self.catalog}
        return any(url not in registered for url in self.loading)

    def load_at_start(self, load: LoadAtStart | StartupModel) -> None:
        """Register a model of the command line or config.properties, or of a snapshot, in the background."""
        url = load.url if isinstance(load, LoadAtStart) else load.archive_name or ""
        ask = m.RegisterModel(0, url, model_name=load.name, synchronous=False)
        self.loading.append(url)
        restored = load if isinstance(load, StartupModel) else None
        registering.begin(self, Preparing(None, ask, restored))

    def ask(self, peer: bytes, ask: m.Change, now: float) -> None:
        """Begin what a gateway asks for; an ask that is being worked on already is not begun again."""
        if self.is_pending(peer, ask.ask):
            return
        caller = (peer, ask.ask)
        self._pending.setdefault(peer, set()).add(ask.ask)
        try:
            if len(self.steps) >= running_changes.CHANGES_LIMIT:
                details = f"{running_changes.CHANGES_LIMIT} changes are being made"
                raise errors.ServiceUnavailable("The broker is busy.", details)
            self._require_allowed(ask, now)
            self._begin(caller, ask, now)
        except errors.RelayError as error:
            self.refuse(caller, error)

    def _begin(self, caller: Caller, ask: m.Change, now: float) -> None:
        match ask:
            case m.RegisterModel():
                registering.begin(self, Preparing(caller, ask))
            case m.ScaleWorkers():
                version_changes.scale(self, caller, ask)
            case m.UnregisterModel():
                version_changes.remove(self, caller, ask)
            case m.SetDefault():
                version_changes.set_default(self, caller, ask)
            case m.RegisterWorkflow():
                workflow_changes.register(self, caller, ask)
            case m.UnregisterWorkflow():
                workflow_changes.unregister(self, caller, ask)
            case m.RenewKey():
                self.enter(running_changes.AwaitingRenewal(caller, ask))
                if not any(self.of_kind(Renewing)):
                    self._begin_renewal(now)
            case m.Invite() | m.EndInvitation() | m.ChangeMember() | m.RotateBrokerKey():
                self.change_members(caller, ask, now)
            case _:
                assert_never(ask)

    def _require_allowed(self, ask: m.Change, now: float) -> None:
        """Hold who asks to what gateways hold clients to: a gateway may be anybody who reaches the broker."""
        api: KeyedApi = "token" if isinstance(ask, m.RenewKey) else "management"
        if self.settings.token_authorization and not self.keys.is_proven(api, ask.proof, now):
            raise errors.InvalidKey(
                "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
            )
        is_of_models = isinstance(ask, m.RegisterModel | m.UnregisterModel)
        if is_of_models and not self.settings.enable_model_api:
            raise errors.MethodNotAllowed
        if isinstance(ask, m.RegisterWorkflow) and not self.settings.enable_workflow_api:
            raise errors.BadRequest("Registering new workflows is disabled.")

    def continue_with(self, event: ArchivePrepared | WorkflowPrepared | Stored, now: float) -> None:
        """Take the next step of a change whose blocking work is done."""
        match event:
            case ArchivePrepared(token, outcome):
                if isinstance(self.steps[token], running_changes.PreparingStep):
                    workflow_changes.step_prepared(self, token, outcome)
                else:
                    registering.prepared(self, token, outcome)
            case WorkflowPrepared(token, read):
                workflow_changes.prepared(self, token, read)
            case Stored(token, error):
                self._take_stored(self.steps.pop(token), error, now)
            case _:
                assert_never(event)

    def _take_stored(self, step: running_changes.Step, error: errors.RelayError | None, now: float) -> None:
        assert isinstance(step, running_changes.Storing), step
        match step:
            case running_changes.Registering():
                registering.stored(self, step, error, now)
            case running_changes.RegisteringWorkflow():
                workflow_changes.stored(self, step, error, now)
            case running_changes.RemovingWorkflow():
                workflow_changes.removed(self, step, error, now)
            case running_changes.RestoringDefault():
                registering.default_restored(self, step, error)
            case running_changes.Scaling():
                version_changes.scaled(self, step, error, now)
            case running_changes.SettingDefault():
                version_changes.default_set(self, step, error)
            case running_changes.Removing() | running_changes.RollingBack():
                version_changes.removed(self, step, error, now)
            case Renewing():
                self._end_renewal(step, error, now)
            case running_changes.WritingSnapshot():
                self.snapshot_written(step)
            case running_changes.RememberingNodes():
                pass
            case _:
                assert_never(step)

    def _begin_renewal(self, now: float) -> None:
        """Have the keys of the next renewal made and stored: one after the other."""
        for token, step in self.of_kind(running_changes.AwaitingRenewal):
            del self.steps[token]
            try:
                made = self.keys.renew(step.ask.api, now)
            except errors.RelayError as error:
                self.refuse(step.caller, error)
                continue
            self.emit(KeepKeys(self.enter(Renewing(step.caller, step.ask, made)), made))
            return

    def _end_renewal(self, step: Renewing, error: errors.RelayError | None, now: float) -> None:
        """Use keys that are durable, tell gateways and the caller, and begin the next renewal."""
        api = step.ask.api
        if error:
            facts: dict[str, object] = {"api": api, "reason": str(error)}
            self.emit(Report(logging.ERROR, "key.not_renewed", facts))
            self.refuse(step.caller, error)
        else:
            self.keys.use(step.made)
            self.emit(Report(logging.INFO, "key.renewed", {"api": api}))
            # Before the answer: whoever reads the new key then finds that it opens.
            self.tell_gateways(self.keys.message(now))
            self.reply(step.caller, m.KeyRenewed(step.ask.ask))
        self._begin_renewal(now)

    def patience_for(self, key: Key) -> float:
        """Return how long retired workers of a version may finish; negative is for ever."""
        if self.catalog.get(key) is None:
            return self.settings.stop_grace_s
        return self.patience_s.get(key, -1)

    def after_reconciling(self, done: Iterable[Key], now: float) -> None:
        """Tell callers what has come about, now that targets and workers of some versions were compared."""
        if self.patience_s:
            for key in done:
                self.patience_s.pop(key, None)
        registering.load_again(self, now)
        version_changes.check_waiting(self, now)
        workflow_changes.check_waiting(self, now)
        if not self._has_started and not self.loading:
            self._has_started = True
            self.write_snapshot(running_changes.WritingSnapshot("startup"))

    def remember_nodes(self, now: float) -> None:
        """Note which nodes are here, for the next start, where others are than were noted last."""
        names = tuple(sorted(node.name for node in self.fleet.staying_nodes))
        if names != self._remembered_nodes and not self.fleet.is_settling(now):
            self._remembered_nodes = names
            self.store(running_changes.RememberingNodes(names), RememberNodes(names))
