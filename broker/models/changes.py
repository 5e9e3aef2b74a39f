"""Changes of models and keys that callers of the management API ask for, and those of the start. Pure.

Each kind of change has a module (`registering`, `scaling`, `removing`, `setting_default`, `renewing`), and
each change is at one of the `steps`, by a token. Here they are begun, and go on as events come back.
"""

from dataclasses import dataclass
from typing import assert_never

from torchrelay.broker.core.events import ArchivePrepared, Stored
from torchrelay.broker.models import (
    awaiting_workers,
    registering,
    removing,
    renewing,
    scaling,
    setting_default,
    steps,
)
from torchrelay.broker.models.catalog import Key
from torchrelay.broker.models.records import RememberNodes, VersionRecord
from torchrelay.broker.models.running_changes import RunningChanges
from torchrelay.broker.models.steps import Caller
from torchrelay.shared import errors
from torchrelay.shared.settings import LoadAtStart, StartupModel
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import KeyedApi


@dataclass(slots=True, eq=False, repr=False)
class Management(RunningChanges):
    """Begins changes and takes them further; they write the catalog, and read the fleet."""

    _has_started: bool = False

    @property
    def is_starting(self) -> bool:
        """Whether models of the start are missing: not registered, by this start or an earlier one."""
        if not self.loading:
            return False
        registered = {record.url for record in self.catalog}
        return any(url not in registered for url in self.loading)

    def load_at_start(self, load: LoadAtStart | StartupModel) -> None:
        """Register a model of the command line or config.properties, or of a snapshot, in the background."""
        registering.load_at_start(self, load)

    def installs_packages(self, record: VersionRecord) -> bool:
        """Tell whether a version's workers have what its archive requires installed before they load."""
        return registering.installs_packages(record, self.settings)

    def ask(self, peer: bytes, ask: m.Change, now: float) -> None:
        """Begin what a gateway asks for; an ask that is being worked on already is not begun again."""
        if self.is_pending(peer, ask.ask):
            return
        caller = (peer, ask.ask)
        self.expect(caller)
        try:
            self.check_room()
            self._require_allowed(ask, now)
            self._begin(caller, ask, now)
        except errors.RelayError as error:
            self.refuse(caller, error)

    def _begin(self, caller: Caller, ask: m.Change, now: float) -> None:
        match ask:
            case m.RegisterModel():
                registering.begin(self, caller, ask)
            case m.ScaleWorkers():
                scaling.begin(self, caller, ask)
            case m.UnregisterModel():
                removing.begin(self, caller, ask)
            case m.SetDefault():
                setting_default.begin(self, caller, ask)
            case m.RenewKey():
                renewing.begin(self, caller, ask, now)
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

    def continue_with(self, event: ArchivePrepared | Stored, now: float) -> None:
        """Take the next step of a change whose blocking work is done."""
        match event:
            case ArchivePrepared(token, outcome):
                registering.prepared(self, token, outcome)
            case Stored(token, error):
                self._take_stored(self.steps.pop(token), error, now)
            case _:
                assert_never(event)

    def _take_stored(self, step: steps.Step, error: errors.RelayError | None, now: float) -> None:
        match step:
            case steps.Registering():
                registering.stored(self, step, error, now)
            case steps.RestoringDefault():
                registering.default_restored(self, step, error)
            case steps.Scaling():
                scaling.stored(self, step, error, now)
            case steps.SettingDefault():
                setting_default.stored(self, step, error)
            case steps.Removing() | steps.RollingBack():
                removing.stored(self, step, error, now)
            case steps.Renewing():
                renewing.stored(self, step, error, now)
            case steps.WritingSnapshot():
                self.snapshot_written(step)
            case steps.RememberingNodes():
                pass
            case (
                steps.Preparing() | steps.AwaitingRenewal() | steps.AwaitingWorkers() | steps.AwaitingExits()
            ):
                raise AssertionError(f"nothing is stored at this step: {step}")
            case _:
                assert_never(step)

    def patience_for(self, key: Key) -> float:
        """Return how long retired workers of a version may finish; negative is for ever."""
        if self.catalog.get(key) is None:
            return self.settings.stop_grace_s
        return self.patience_s.get(key, -1)

    def after_reconciling(self, now: float) -> None:
        """Tell callers what has come about, now that targets and workers were compared."""
        self.patience_s.clear()
        awaiting_workers.check(self, now)
        removing.check_exits(self, now)
        if not self._has_started and not self.loading:
            self._has_started = True
            self.write_startup_snapshot()

    def remember_nodes(self, names: tuple[str, ...]) -> None:
        """Note which nodes are here, for the next start."""
        self.store(steps.RememberingNodes(names), RememberNodes(names))
