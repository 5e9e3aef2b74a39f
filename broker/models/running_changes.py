"""The changes that are being made, by a token for each step, and the callers that wait for them. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from torchrelay.broker.core.effects import Effect, Send, Store, WriteSnapshot
from torchrelay.broker.core.keyring import Keyring
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.models.catalog import Catalog, Key
from torchrelay.broker.models.records import Change
from torchrelay.broker.models.steps import Caller, Step, Storing, WritingSnapshot
from torchrelay.shared import errors
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import messages as m

#: Changes that are being made at the same time: twice what one gateway may ask for.
CHANGES_LIMIT = 1024

StepT = TypeVar("StepT", bound=Step)


@dataclass(slots=True, eq=False, repr=False)
class RunningChanges:
    """What each kind of change shares: the table of steps, and answers to callers."""

    catalog: Catalog
    fleet: Fleet
    settings: BrokerSettings
    keys: Keyring
    #: Of the broker's start, so that a number that only this start gives is one of all.
    epoch: int
    emit: Callable[[Effect], None]
    tell_gateways: Callable[[m.Message], None]
    #: By token, in the order in which they began.
    steps: dict[int, Step] = field(default_factory=dict)
    #: Urls of the registrations of the start that have not come to an end.
    loading: list[str] = field(default_factory=list)
    #: How long workers that this turn retires may finish, by version; negative is for ever.
    patience_s: dict[Key, float] = field(default_factory=dict)
    #: (archive, url) of what versions used, until it is known whether any does; see `unused_archives`.
    let_go: dict[tuple[str, str], None] = field(default_factory=dict)
    #: Asks that have not been answered, by gateway.
    _pending: dict[bytes, set[int]] = field(default_factory=dict)
    _next_token: int = 1

    def __repr__(self) -> str:
        return f"{type(self).__name__}(steps={self.steps!r})"

    def enter(self, step: Step) -> int:
        """Note a step that is being taken; return its token."""
        token = self._token()
        self.steps[token] = step
        return token

    def store(self, step: Storing, change: Change) -> None:
        """Have a change made durable, which ends the step."""
        self.emit(Store(self.enter(step), change))

    def of_kind(self, kind: type[StepT]) -> Iterator[tuple[int, StepT]]:
        """Yield the steps of a kind with their tokens, oldest first; they may be removed meanwhile."""
        return ((token, step) for token, step in list(self.steps.items()) if isinstance(step, kind))

    def new_registration(self) -> str:
        """Return a text that no other registration has, also not of another start of the broker."""
        return f"{self.epoch}-{self._token()}"

    def _token(self) -> int:
        self._next_token += 1
        return self._next_token

    # Callers

    def check_room(self) -> None:
        """Raise ServiceUnavailable while too many changes are being made, whoever asked for them."""
        if len(self.steps) >= CHANGES_LIMIT:
            raise errors.ServiceUnavailable("The broker is busy.", f"{CHANGES_LIMIT} changes are being made")

    def is_pending(self, peer: bytes, ask: int) -> bool:
        """Tell whether an ask is being worked on."""
        return ask in self._pending.get(peer, ())

    def expect(self, caller: Caller) -> None:
        """Note that a caller waits for an answer."""
        self._pending.setdefault(caller[0], set()).add(caller[1])

    def forget_peer(self, peer: bytes) -> None:
        """Answer a gateway no more; what it began goes on."""
        self._pending.pop(peer, None)

    def reply(self, caller: Caller, reply: m.Message) -> None:
        """Answer a caller, if it still waits."""
        if self.is_pending(*caller):
            self._pending[caller[0]].discard(caller[1])
            self.emit(Send(caller[0], reply))

    def refuse(self, caller: Caller, error: errors.RelayError) -> None:
        """Answer a caller with an error."""
        self.reply(caller, m.AskRefused(caller[1], error.name, error.message, error.details))

    def succeed(self, caller: Caller, reply: m.Message) -> None:
        """Answer a caller whose change has come about, once the snapshot of it is there to be looked at."""
        self._write_snapshot(WritingSnapshot("snapshot", caller, reply))

    def write_startup_snapshot(self) -> None:
        """Write what the models are now that the start is over."""
        self._write_snapshot(WritingSnapshot("startup"))

    def snapshot_written(self, step: WritingSnapshot) -> None:
        """Answer who waited for a snapshot, also where it could not be written."""
        if step.caller is not None and step.reply is not None:
            self.reply(step.caller, step.reply)

    def _write_snapshot(self, step: WritingSnapshot) -> None:
        if self.settings.snapshot_dir is None:
            self.snapshot_written(step)
        else:
            self.emit(WriteSnapshot(self.enter(step), step.kind, self.catalog.as_startup_models()))
