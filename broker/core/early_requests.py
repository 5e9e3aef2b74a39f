"""Requests for models of the start that are not registered yet: they wait until those are. Pure.

TorchServe opens its ports when the models of its start are registered; here gateways may be up long before,
and a name that nobody knows yet is not "not found".
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

import msgspec

from torchrelay.broker.core.answers import Answers, Gateway, Send, ask_refused
from torchrelay.broker.models.origins import without_query
from torchrelay.shared import errors
from torchrelay.shared.settings import StartupModel
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame

#: As long as a gateway waits for a broker that is away, unless it is told otherwise.
WAIT_LIMIT_S = 30.0
#: Urls named in the error of a request that waited too long.
SHOWN_LIMIT = 5


@dataclass(slots=True, frozen=True)
class EarlyRequest:
    """A job with its frames, or an ask, that came while models of the start were being registered."""

    gateway: Gateway
    request: m.SubmitItem | m.Ask
    frames: tuple[Frame, ...]
    #: When it came; a job's `left_ms` counts from then.
    since: float
    #: A job that a broker before this one was sent, so that a worker may have it; or one behind such a job of
    #: its sequence.
    is_again: bool = False

    @property
    def given_up_at(self) -> float:
        """When it is refused: earlier than others where its client waits for less."""
        left_ms = self.request.left_ms if isinstance(self.request, m.SubmitItem) else 0
        limit_s = inf if self.is_again else WAIT_LIMIT_S
        return self.since + (min(limit_s, left_ms / 1000) if left_ms else limit_s)

    def job_now(self, now: float) -> m.SubmitItem:
        """Return the job as if it had come now."""
        assert isinstance(self.request, m.SubmitItem)
        if not self.request.left_ms:
            return self.request
        left_ms = self.request.left_ms - int(1000 * (now - self.since))
        return msgspec.structs.replace(self.request, left_ms=max(1, left_ms))

    @property
    def sequence(self) -> tuple[bytes, str] | None:
        """The sequence, of its gateway, in which it came again."""
        has_one = self.is_again and isinstance(self.request, m.SubmitItem) and self.request.sequence
        return (self.gateway.peer, has_one) if has_one else None

    @property
    def number(self) -> int:
        """The gateway's own number for it."""
        return self.request.job if isinstance(self.request, m.SubmitItem) else self.request.ask

    @property
    def size(self) -> int:
        """How many bytes wait with it."""
        meta = self.request.meta if isinstance(self.request, m.SubmitItem) else b""
        return len(meta) + sum(map(len, self.frames))


@dataclass(eq=False)
class EarlyRequests:
    """The requests that wait for the end of the start, in the order in which they came."""

    _answers: Answers
    _send: Send
    limit: int
    limit_bytes: int
    #: By gateway and its own number, which counts jobs and asks together.
    waiting: dict[tuple[bytes, int], EarlyRequest] = field(default_factory=dict)
    #: How many wait of each sequence that came again.
    _sequences: Counter[tuple[bytes, str]] = field(default_factory=Counter)
    #: Sum of their sizes.
    _bytes: int = 0

    def keep(self, early: EarlyRequest, loading: Iterable[str]) -> None:
        """Let a request wait, or refuse it where too much waits already."""
        is_too_large = self._bytes and self._bytes + early.size > self.limit_bytes
        # What came again had been accepted, and gateways bound it.
        if not early.is_again and (len(self.waiting) >= self.limit or is_too_large):
            self._refuse(early, loading)
            return
        self.waiting[early.gateway.peer, early.number] = early
        self._bytes += early.size
        if early.sequence:
            self._sequences[early.sequence] += 1

    def has_before(self, gateway: Gateway, item: m.SubmitItem) -> bool:
        """Tell whether jobs of a new one's sequence wait here, which it must not overtake."""
        return bool(item.sequence) and (gateway.peer, item.sequence) in self._sequences

    def forget(self, peer: bytes, number: int) -> None:
        """Forget a request whose client has left."""
        early = self.waiting.pop((peer, number), None)
        if early is not None:
            self._bytes -= early.size
            if early.sequence:
                self._sequences[early.sequence] -= 1
                if not self._sequences[early.sequence]:
                    del self._sequences[early.sequence]

    def forget_gateway(self, peer: bytes) -> None:
        """Forget all requests of a gateway."""
        for key in [key for key in self.waiting if key[0] == peer]:
            self.forget(*key)

    def expire(self, loading: Iterable[str], now: float) -> None:
        """Refuse the requests that have waited for WAIT_LIMIT_S, or as long as their clients do."""
        for (peer, number), early in list(self.waiting.items()):
            if early.given_up_at <= now:
                self.forget(peer, number)
                self._refuse(early, loading)

    def take(self, must_wait: Callable[[EarlyRequest], bool]) -> list[EarlyRequest]:
        """Remove and return the requests that need not wait any more."""
        taken = [early for early in self.waiting.values() if not must_wait(early)]
        for early in taken:
            self.forget(early.gateway.peer, early.number)
        return taken

    def _refuse(self, early: EarlyRequest, loading: Iterable[str]) -> None:
        urls = [without_query(url) for url in loading]
        shown = ", ".join(urls[:SHOWN_LIMIT]) + (", ..." if len(urls) > SHOWN_LIMIT else "")
        error = errors.ServiceUnavailable(
            "The models named at start are being registered.", f"not yet registered: {shown}; try again later"
        )
        if isinstance(early.request, m.SubmitItem):
            self._answers.refuse_unadmitted(early.gateway, early.request.job, error)
        else:
            self._send(early.gateway.peer, ask_refused(early.request.ask, error), ())


def default_versions_first(models: Sequence[StartupModel]) -> list[StartupModel]:
    """Order a snapshot so that no request without a version meets one that isn't the default in the end.

    The first version of a model that is registered answers for it until a default is set.
    """
    return sorted(models, key=lambda model: not model.is_default)
