"""Registration, scaling, default versions, unregistration: what callers of the management API ask for.

Pure. An ask goes through its steps as events come back: the archive is prepared by a thread, the change
is made durable by another, only then does it show in the catalog and is the caller told. A caller that
wants to wait is answered by `check_waiters`, once its workers are there or one of them failed to start.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from torchrelay.broker.core.effects import (
    DropArchive,
    Effect,
    KeepKeys,
    Prepare,
    Report,
    Send,
    Store,
    WriteSnapshot,
)
from torchrelay.broker.core.events import ArchivePrepared, Stored
from torchrelay.broker.core.keyring import Keyring, Made
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.models.catalog import Catalog, Key
from torchrelay.broker.models.origins import without_query
from torchrelay.broker.models.precedence import settle, starts_workers
from torchrelay.broker.models.records import (
    Change,
    Prepared,
    PutVersion,
    RememberNodes,
    RemoveVersion,
    SetDefaultVersion,
    SetTargets,
    VersionRecord,
)
from torchrelay.shared import errors
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings, LoadAtStart, StartupModel
from torchrelay.shared.torchserve.snapshot_files import Kind
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import KeyedApi

#: A caller that waits for workers hears of a fleet without room after the model's startup_timeout and
#: this much more, so that a worker's own startup_timeout is told first.
WAIT_SLACK_S = 5.0

#: Changes that are being made at the same time: twice what one gateway may ask for.
CHANGES_LIMIT = 1024

#: Who asked (None: the broker itself, at start) and under which number.
Caller = tuple[bytes, int] | None


@dataclass(slots=True)
class Registration:
    """An archive on its way into the catalog; one that nobody called for is loaded at start."""

    caller: Caller
    ask: m.RegisterModel
    #: What a snapshot says of it.
    restored: StartupModel | None = None


@dataclass(slots=True)
class Waiter:
    """A caller that is answered once a version has what it asked for."""

    caller: Caller
    key: Key
    done: m.ModelRegistered | m.WorkersScaled
    failed_text: str
    #: A registration whose workers fail is taken back, as in TorchServe.
    rolls_back: bool
    deadline: float
    #: It is answered as soon as what the archive requires is installed.
    for_install: bool = False


@dataclass(slots=True)
class Departure:
    """A caller that is answered once the workers of what it unregistered are gone."""

    caller: Caller
    ask: m.UnregisterModel
    worker_ids: frozenset[int]
    deadline: float


class Management:
    """The steps of management asks; writes the catalog, reads the fleet."""

    def __init__(
        self,
        catalog: Catalog,
        fleet: Fleet,
        settings: BrokerSettings,
        keys: Keyring,
        *,
        epoch: int,
        emit: Callable[[Effect], None],
        tell_gateways: Callable[[m.Message], None],
    ) -> None:
        self._catalog = catalog
        self._fleet = fleet
        self._settings = settings
        self._keys = keys
        #: Of the broker's start, so that a number that only this start gives is one of all.
        self._epoch = epoch
        self._emit = emit
        self._tell_gateways = tell_gateways
        self._next_token = 1
        self._registrations: dict[int, Registration] = {}
        #: What to do when a change has been stored, by token; the argument is None or what went wrong.
        self._stores: dict[int, Callable[[errors.RelayError | None, float], None]] = {}
        self._waiters: list[Waiter] = []
        self._departures: list[Departure] = []
        #: Registrations of the start by their tokens, in order, with what came of the archive so far:
        #: the first version of a name is its default, whichever is prepared first.
        self._at_start: dict[int, Prepared | errors.RelayError | None] = {}
        #: Urls of the registrations of the start that have not come to an end.
        self.loading: list[str] = []
        self._has_started = False
        #: Keys to be renewed, one after the other; the first is being stored.
        self._renewals: deque[tuple[Caller, m.RenewKey]] = deque()
        #: Asks that have not been answered.
        self._pending: dict[bytes, set[int]] = {}
        #: Names and versions on their way to disk, so that two registrations can't both win.
        self._reserved: set[Key] = set()
        #: (archive, url) of what may be deleted once no registration is on its way.
        self._doomed: dict[tuple[str, str], None] = {}
        #: How long workers that a scaling retires may finish; forgotten once they are retired.
        self._patience_s: dict[Key, float] = {}

    @property
    def is_starting(self) -> bool:
        """Whether models of the start are missing: not registered, by this start or an earlier one."""
        if not self.loading:
            return False
        registered = {record.url for record in self._catalog}
        return any(url not in registered for url in self.loading)

    # Entry points

    def ask(self, peer: bytes, ask: m.Change, now: float) -> None:
        """Begin what a gateway asks for; an ask that is being worked on already is not begun again."""
        if self.is_pending(peer, ask.ask):
            return
        self._pending.setdefault(peer, set()).add(ask.ask)
        try:
            self._check_room()
            self._require_allowed(ask, now)
            match ask:
                case m.RegisterModel():
                    self._prepare(Registration((peer, ask.ask), ask))
                case m.ScaleWorkers():
                    self._scale((peer, ask.ask), ask)
                case m.UnregisterModel():
                    self._unregister((peer, ask.ask), ask)
                case m.SetDefault():
                    self._set_default((peer, ask.ask), ask)
                case m.RenewKey():
                    self._renewals.append(((peer, ask.ask), ask))
                    if len(self._renewals) == 1:
                        self._renew_next(now)
        except errors.RelayError as error:
            self._refuse((peer, ask.ask), error)

    def _require_allowed(self, ask: m.Change, now: float) -> None:
        """Hold who asks to what gateways hold clients to: a gateway may be anybody who reaches the broker."""
        api: KeyedApi = "token" if isinstance(ask, m.RenewKey) else "management"
        if self._settings.token_authorization and not self._keys.is_proven(api, ask.proof, now):
            raise errors.InvalidKey(
                "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
            )
        is_of_models = isinstance(ask, m.RegisterModel | m.UnregisterModel)
        if is_of_models and not self._settings.enable_model_api:
            raise errors.MethodNotAllowed

    def _check_room(self) -> None:
        """Raise ServiceUnavailable while too many changes are being made, whoever asked for them."""
        running = len(self._registrations) + len(self._stores) + len(self._waiters) + len(self._departures)
        if running + len(self._renewals) >= CHANGES_LIMIT:
            raise errors.ServiceUnavailable("The broker is busy.", f"{CHANGES_LIMIT} changes are being made")

    def load_at_start(self, load: LoadAtStart | StartupModel) -> None:
        """Register a model of the command line or config.properties, or of a snapshot, in the background."""
        url = load.url if isinstance(load, LoadAtStart) else load.archive_name or ""
        ask = m.RegisterModel(0, url, model_name=load.name, synchronous=False)
        restored = load if isinstance(load, StartupModel) else None
        self.loading.append(url)
        self._at_start[self._prepare(Registration(None, ask, restored))] = None

    def continue_with(self, event: ArchivePrepared | Stored, now: float) -> None:
        """Take the next step of an ask whose blocking work is done."""
        match event:
            case ArchivePrepared(token, outcome) if token in self._at_start:
                self._at_start[token] = outcome
                for first, prepared in list(self._at_start.items()):
                    if prepared is None:
                        break
                    del self._at_start[first]
                    self._take_prepared(first, prepared)
            case ArchivePrepared(token, outcome):
                self._take_prepared(token, outcome)
            case Stored(token, stored_error):
                self._stores.pop(token)(stored_error, now)

    def is_pending(self, peer: bytes, ask: int) -> bool:
        """Tell whether an ask is being worked on."""
        return ask in self._pending.get(peer, ())

    def forget_peer(self, peer: bytes) -> None:
        """Answer a gateway no more; what it began goes on."""
        self._pending.pop(peer, None)

    def patience_s(self, key: Key) -> float:
        """Return how long retired workers of a version may finish; negative is for ever."""
        if self._catalog.get(key) is None:
            return self._settings.stop_grace_s
        return self._patience_s.get(key, -1)

    def after_reconciling(self, now: float) -> None:
        """Tell callers what has come about, now that targets and workers were compared."""
        self._patience_s.clear()
        self._check_waiters(now)
        self._check_departures(now)
        if not self._has_started and not self.loading:
            self._has_started = True
            self._take_snapshot("startup", lambda: None)

    def remember_nodes(self, names: tuple[str, ...]) -> None:
        """Note which nodes are here, for the next start."""
        self._store(RememberNodes(names), lambda error, now: None)

    # Register

    def _prepare(self, registration: Registration) -> int:
        token = self._token()
        self._registrations[token] = registration
        ask = registration.ask
        is_wanted_now = starts_workers(
            ask, registration.restored, self._settings, registration.caller is None
        )
        self._emit(Prepare(token, ask.url, ask.s3_sse_kms, is_wanted_now))
        return token

    def _take_prepared(self, token: int, outcome: Prepared | errors.RelayError) -> None:
        registration = self._registrations.pop(token)
        try:
            if isinstance(outcome, errors.RelayError):
                raise outcome
            self._register(registration, outcome)
        except errors.RelayError as error:
            if isinstance(outcome, Prepared):
                self._doomed[outcome.archive, registration.ask.url] = None
            self._refuse_registration(registration, error)
        self._drop_doomed()

    def _register(self, registration: Registration, prepared: Prepared) -> None:
        at_start, restored = registration.caller is None, registration.restored
        record = settle(registration.ask, prepared, self._settings, at_start=at_start, restored=restored)
        self._check_target(record.min_workers)
        record = replace(record, registration=f"{self._epoch}-{self._token()}")
        key = (record.model, record.version)
        known = self._catalog.get(key)
        if not at_start and (known or key in self._reserved):
            raise errors.Conflict(
                f"Model version {record.version} is already registered for model {record.model}"
            )
        if known and known.archive == record.archive and not restored:
            self._end_loading(registration)
            return  # a restart: what was scaled or set since holds
        self._reserved.add(key)

        def stored(error: errors.RelayError | None, now: float) -> None:
            self._reserved.discard(key)
            if error:
                self._drop_archive(record)
                self._refuse_registration(registration, error)
                return
            self._catalog.apply(PutVersion(record))
            self._fleet.forgive(key)
            if known:
                self._drop_archive(known)
            self._drop_doomed()
            self._report_registration(record, prepared)
            if restored and restored.is_default:
                self._restore_default(registration, record)
            elif at_start:
                self._end_loading(registration)
            else:
                self._answer_registration(registration, record, now)

        self._store(PutVersion(record), stored)

    def _report_registration(self, record: VersionRecord, prepared: Prepared) -> None:
        model = {"model": record.model, "version": record.version}
        self._emit(Report(logging.INFO, "model.registered", {**model, "workers": record.min_workers}))
        if prepared.is_packed:
            reason = "its workers see the folder as it is now; after an edit, register it again"
            self._emit(Report(logging.INFO, "model.folder_packed", {**model, "reason": reason}))
        for warning in prepared.config_warnings:
            self._emit(Report(logging.WARNING, "model.config_ignored", {**model, "reason": warning}))

    def _restore_default(self, registration: Registration, record: VersionRecord) -> None:
        def stored(error: errors.RelayError | None) -> None:
            if error:
                self._emit(Report(logging.ERROR, "model.default_not_set", {
                    "model": record.model, "version": record.version, "reason": str(error),
                }))  # fmt: skip
            self._end_loading(registration)

        self._store_default((record.model, record.version), stored)

    def _refuse_registration(self, registration: Registration, error: errors.RelayError) -> None:
        self._refuse(registration.caller, error, url=registration.ask.url)
        self._end_loading(registration)

    def _end_loading(self, registration: Registration) -> None:
        if registration.caller is None:
            self.loading.remove(registration.ask.url)
            self._fleet.must_reconcile = True

    def _answer_registration(self, registration: Registration, record: VersionRecord, now: float) -> None:
        ask = registration.ask
        key = (record.model, record.version)
        is_done = ask.synchronous or record.min_workers == 0
        reply = m.ModelRegistered(ask.ask, record.model, record.version, record.min_workers, is_done)
        waits_for_workers = ask.synchronous and record.min_workers > 0
        if not waits_for_workers and not self.installs_packages(record):
            self._succeed(registration.caller, reply)
            return
        if record.min_workers == 0:
            self._fleet.install(key)
        self._waiters.append(
            Waiter(
                registration.caller,
                key,
                reply,
                f"Failed to start workers for model {record.model} version: {record.version}",
                rolls_back=True,
                deadline=now + record.startup_timeout_s + WAIT_SLACK_S,
                for_install=not waits_for_workers,
            )
        )

    def _check_target(self, workers: int) -> None:
        limit = self._settings.workers_limit
        if workers > limit:
            raise errors.BadRequest(f"{workers} workers are above the limit of workers_limit ({limit}).")

    def installs_packages(self, record: VersionRecord) -> bool:
        """Tell whether a version's workers have what its archive requires installed before they load."""
        return self._settings.install_py_dep_per_model and record.has_requirements

    # Scale

    def _scale(self, caller: Caller, ask: m.ScaleWorkers) -> None:
        record = self._catalog.resolve(ask.model, ask.version)
        key = (record.model, record.version)
        if not 0 <= ask.min_workers <= ask.max_workers:
            raise errors.BadRequest("max_worker cannot be less than min_worker.")
        self._check_target(ask.min_workers)
        change = SetTargets(*key, ask.min_workers, ask.max_workers)

        def stored(error: errors.RelayError | None, now: float) -> None:
            if error is None and self._catalog.get(key) is None:
                error = errors.ModelNotFound(f"Model not found: {ask.model}")
            if error:
                self._refuse(caller, error)
                return
            self._catalog.apply(change)
            self._fleet.forgive(key)
            self._patience_s[key] = ask.drain_timeout_s
            reply = m.WorkersScaled(ask.ask, ask.synchronous)
            if not ask.synchronous:
                self._succeed(caller, reply)
                return
            text = f"Failed to start workers for model {ask.model} version: {ask.version or 'null'}"
            deadline = now + record.startup_timeout_s + WAIT_SLACK_S
            self._waiters.append(Waiter(caller, key, reply, text, rolls_back=False, deadline=deadline))

        self._store(change, stored)

    # Default version, unregister

    def _set_default(self, caller: Caller, ask: m.SetDefault) -> None:
        self._catalog.resolve(ask.model, None)
        unknown = errors.ModelVersionNotFound(
            f"Model version {quoted(ask.version)} does not exist for model {ask.model}"
        )
        if self._catalog.get((ask.model, ask.version)) is None:
            raise unknown

        def stored(error: errors.RelayError | None) -> None:
            if error:
                self._refuse(caller, error)
            elif self._catalog.get((ask.model, ask.version)) is None:  # it was removed meanwhile
                self._refuse(caller, unknown)
            else:
                self._succeed(caller, m.DefaultSet(ask.ask))

        self._store_default((ask.model, ask.version), stored)

    def _store_default(self, key: Key, then: Callable[[errors.RelayError | None], None]) -> None:
        change = SetDefaultVersion(*key)

        def stored(error: errors.RelayError | None, now: float) -> None:
            if error is None:
                self._catalog.apply(change)
            then(error)

        self._store(change, stored)

    def _unregister(self, caller: Caller, ask: m.UnregisterModel) -> None:
        record = self._catalog.resolve(ask.model, ask.version)
        self._catalog.check_removable(record)

        def removed(error: errors.RelayError | None, now: float) -> None:
            if error:
                self._refuse(caller, error)
                return
            # Answered when the workers' memory is free again, since what comes next may need it.
            workers = self._fleet.of_version((record.model, record.version))
            ids = frozenset(worker.worker_id for worker in workers)
            self._departures.append(Departure(caller, ask, ids, now + self._settings.unregister_timeout_s))

        self._remove(record, removed)

    def _remove(self, record: VersionRecord, then: Callable[[errors.RelayError | None, float], None]) -> None:
        change = RemoveVersion(record.model, record.version)

        def stored(error: errors.RelayError | None, now: float) -> None:
            if error is None:
                self._catalog.apply(change)
                self._fleet.forgive((record.model, record.version))
                self._patience_s.pop((record.model, record.version), None)
                self._drop_archive(record)
                self._emit(Report(logging.INFO, "model.unregistered",
                                  {"model": record.model, "version": record.version}))  # fmt: skip
            then(error, now)

        self._store(change, stored)

    def _drop_archive(self, record: VersionRecord) -> None:
        """Let an archive go as soon as no registration that is on its way may need it."""
        self._doomed[record.archive, record.url] = None
        self._drop_doomed()

    def _drop_doomed(self) -> None:
        if self._registrations or self._reserved:
            return
        doomed, self._doomed = self._doomed, {}
        for archive, url in doomed:
            is_used = self._catalog.is_archive_used(archive)
            is_url_used = any(record.url == url for record in self._catalog)
            if not (is_used and is_url_used):
                self._emit(DropArchive("" if is_used else archive, "" if is_url_used else url))

    # Keys

    def _renew_next(self, now: float) -> None:
        while self._renewals:
            caller, ask = self._renewals[0]
            try:
                made = self._keys.renew(ask.api, now)
            except errors.RelayError as error:
                self._renewals.popleft()
                self._refuse(caller, error)
                continue
            self._keep_keys(caller, ask, made)
            return

    def _keep_keys(self, caller: Caller, ask: m.RenewKey, made: Made) -> None:
        def kept(error: errors.RelayError | None, now: float) -> None:
            self._renewals.popleft()
            if error:
                self._emit(Report(logging.ERROR, "key.not_renewed", {"api": ask.api, "reason": str(error)}))
                self._refuse(caller, error)
            else:
                self._keys.use(made)
                self._emit(Report(logging.INFO, "key.renewed", {"api": ask.api}))
                # Before the answer: whoever reads the new key then finds that it opens.
                self._tell_gateways(self._keys.message(now))
                self._reply(caller, m.KeyRenewed(ask.ask))
            self._renew_next(now)

        token = self._token()
        self._stores[token] = kept
        self._emit(KeepKeys(token, made))

    # Waiting for workers

    def _check_waiters(self, now: float) -> None:
        """Answer the callers whose workers are all there, or won't be."""
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            record = self._catalog.get(waiter.key)
            if record is None:
                self._refuse(waiter.caller, errors.ModelNotFound(f"Model not found: {waiter.key[0]}"))
            elif self._has_come_about(waiter, record):
                self._succeed(waiter.caller, waiter.done)
            elif self._has_failed(waiter, record, now):
                self._fail_waiter(waiter, record, now)
            else:
                self._waiters.append(waiter)

    def _check_departures(self, now: float) -> None:
        """Answer the callers whose unregistered workers are gone, or take too long."""
        leaving, self._departures = self._departures, []
        for departure in leaving:
            model = departure.ask.model
            if not departure.worker_ids & self._fleet.workers.keys():
                self._succeed(departure.caller, m.ModelUnregistered(departure.ask.ask, model))
            elif now >= departure.deadline:
                error = errors.RequestTimeout(f"Timed out while cleaning resources: {model}")
                self._refuse(departure.caller, error)
            else:
                self._departures.append(departure)

    def _has_come_about(self, waiter: Waiter, record: VersionRecord) -> bool:
        key = waiter.key
        if waiter.for_install:
            return not (self._fleet.is_installing(key) or self._fleet.condition(key).failed_installing)
        return (
            len(self._fleet.ready(key)) >= record.min_workers
            and len(self._fleet.of_version(key)) <= record.max_workers
        )

    def _has_failed(self, waiter: Waiter, record: VersionRecord, now: float) -> bool:
        condition = self._fleet.condition(waiter.key)
        if waiter.for_install:
            return condition.failed_installing
        # Workers may be missing that nobody is starting; those that start have their own limit.
        is_hopeless = now >= waiter.deadline and len(self._fleet.live(waiter.key)) < record.min_workers
        return condition.failures > 0 or is_hopeless

    def _fail_waiter(self, waiter: Waiter, record: VersionRecord, now: float) -> None:
        condition = self._fleet.condition(waiter.key)
        details = condition.last_error or self._fleet.explain(record, now)
        cls = errors.OutOfResources if condition.is_out_of_memory else errors.WorkerStartFailed
        error: errors.RelayError = cls(waiter.failed_text, details)
        if waiter.rolls_back and condition.failed_installing:
            text = f"Custom pip package installation failed for model {record.model}"
            error = errors.DependenciesFailed(text, details)
        if waiter.rolls_back:
            self._remove(record, lambda store_error, now: self._refuse(waiter.caller, store_error or error))
        else:
            self._refuse(waiter.caller, error)

    # Plumbing

    def _token(self) -> int:
        self._next_token += 1
        return self._next_token

    def _store(self, change: Change, then: Callable[[errors.RelayError | None, float], None]) -> None:
        token = self._token()
        self._stores[token] = then
        self._emit(Store(token, change))

    def _succeed(self, caller: Caller, reply: m.Message) -> None:
        """Answer a caller whose change has come about, once the snapshot of it is there to be looked at."""
        self._take_snapshot("snapshot", lambda: self._reply(caller, reply))

    def _take_snapshot(self, kind: Kind, then: Callable[[], None]) -> None:
        if self._settings.snapshot_dir is None:
            then()
            return
        token = self._token()
        self._stores[token] = lambda error, now: then()
        self._emit(WriteSnapshot(token, kind, self._catalog.as_startup_models()))

    def _reply(self, caller: Caller, reply: m.Message) -> None:
        if caller is not None and self.is_pending(*caller):
            self._pending[caller[0]].discard(caller[1])
            self._emit(Send(caller[0], reply))

    def _refuse(self, caller: Caller, error: errors.RelayError, url: str = "") -> None:
        if caller is None:
            # The reason repeats the url, too.
            shown = without_query(url)
            reason = str(error).replace(url, shown) if url else str(error)
            self._emit(Report(logging.ERROR, "model.not_loaded", {"url": shown, "reason": reason}))
        else:
            self._reply(caller, m.AskRefused(caller[1], error.name, error.message, error.details))
