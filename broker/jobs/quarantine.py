"""Contents of requests that ended workers, and those among them that are refused for a while. Pure.

A worker that ends by itself leaves the requests that it was running under suspicion. Each is run again with
nothing beside it: one that is answered is cleared, one that ends that worker too has its content
quarantined. Contents are told apart by their inputs, the rest of their path, and whether they ask for an
explanation. Headers don't count, since every tracing system adds some that are never the same twice.

What is known of a version's contents is bounded, and forgotten with time. Nothing here is called for a
version whose workers don't end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from torchrelay.shared import errors
from torchrelay.shared.wire import codec
from torchrelay.shared.wire.codec import Frame

#: How long a content is under suspicion that isn't run again: its client has left, or its answer had begun.
SUSPECTED_FOR_S = 60.0
#: Contents known of one version; the oldest are forgotten first.
CONTENTS_LIMIT = 256
#: Of an input above this, samples are compared first, and all of it only where these are the same.
SAMPLED_ABOVE_BYTES = 8 * 1024
SAMPLES = 16
SAMPLE_BYTES = 64


@dataclass(slots=True, eq=False)
class Suspicion:
    """What is known of one content. It is one for all jobs with that content."""

    #: `fingerprint` of its samples; empty if it can't be told from others, and so never quarantined.
    outline: bytes
    forgotten_at: float = 0.0
    #: Workers that ended while they ran it.
    deaths: int = 0
    #: Id of the worker that ended while it ran this one beside others; 0 without one.
    lost_with: int = 0
    #: Workers ended by it had answered other requests before, or it had ended such a one: a version that
    #: answers others isn't broken.
    is_excused: bool = False
    #: While it is quarantined: `fingerprint` of all of it.
    digest: bytes = b""
    #: Request that was the last to end a worker, and how that ended.
    request_id: str = ""
    reason: str = ""
    #: Requests refused because of it.
    refused: int = 0


@dataclass(slots=True)
class Suspicions:
    """What is known of the contents of one version's requests."""

    #: By outline, the oldest first. Arrivals are looked at while there is something in it.
    known: dict[bytes, Suspicion] = field(default_factory=dict)

    def find(self, meta: bytes, frames: Sequence[Frame]) -> Suspicion | None:
        """Return what is known of a request's content; None if there is nothing against it."""
        suspicion = self.known.get(fingerprint(meta, frames))
        if suspicion and suspicion.digest and suspicion.digest != fingerprint(meta, frames, whole=True):
            return None
        return suspicion

    def suspect(
        self, meta: bytes, frames: Sequence[Frame], now: float, before: Suspicion | None
    ) -> Suspicion:
        """Return the suspicion of a request whose worker ended while running it; `before` if it has one."""
        suspicion = before
        if suspicion is None:
            outline = fingerprint(meta, frames)
            suspicion = self.known.get(outline) or Suspicion(outline)
            if suspicion.digest:  # of another content that differs between its samples alone
                suspicion = Suspicion(b"")
        suspicion.forgotten_at = now + SUSPECTED_FOR_S
        self._enter(suspicion)
        return suspicion

    def _enter(self, suspicion: Suspicion) -> None:
        if not suspicion.outline:
            return
        self.known.pop(suspicion.outline, None)
        while len(self.known) >= CONTENTS_LIMIT:
            del self.known[next(iter(self.known))]
        self.known[suspicion.outline] = suspicion

    def clear(self, suspicion: Suspicion) -> None:
        """Forget a content that was answered."""
        if self.known.get(suspicion.outline) is suspicion:
            del self.known[suspicion.outline]

    def quarantine(
        self, suspicion: Suspicion, meta: bytes, frames: Sequence[Frame], *, until: float, reason: str
    ) -> None:
        """Have requests with this content refused."""
        suspicion.digest = fingerprint(meta, frames, whole=True)
        unpacked = _unpacked(meta, frames)
        suspicion.request_id = unpacked[0].request_id if unpacked else ""
        suspicion.forgotten_at, suspicion.reason = until, reason
        self._enter(suspicion)

    def forget_old(self, now: float) -> None:
        """Forget what has been known for long enough."""
        for outline, suspicion in list(self.known.items()):
            if suspicion.forgotten_at <= now:
                del self.known[outline]

    def quarantined(self) -> list[Suspicion]:
        """Return the contents that are refused, the newest first."""
        return [suspicion for suspicion in reversed(self.known.values()) if suspicion.digest]


def refusal(suspicion: Suspicion, now: float) -> errors.RequestQuarantined:
    """Return the answer to a request whose content is quarantined."""
    left_s = max(1, round(suspicion.forgotten_at - now))
    return errors.RequestQuarantined(
        f"Requests with this content are refused for another {left_s} s: "
        f"{suspicion.deaths} workers ended while they ran it.",
        f"{suspicion.reason} (request {suspicion.request_id})",
    )


def _unpacked(meta: bytes, frames: Sequence[Frame]) -> tuple[codec.Request, list[codec.Payload]] | None:
    try:
        return codec.unpack_request(meta, [codec.opened(frame) for frame in frames])
    except codec.WireError:
        return None


def fingerprint(meta: bytes, frames: Sequence[Frame], *, whole: bool = False) -> bytes:
    """Return a hash of a request's content; empty if it has none, or can't be read.

    Unless the `whole` of it is asked for, large inputs are sampled: 10 us instead of 1 ms for each megabyte.
    """
    unpacked = _unpacked(meta, frames)
    if unpacked is None or not any(map(len, unpacked[1])):
        return b""
    request, values = unpacked
    headers = dict(request.headers)
    digest = sha256()
    facts = [headers.get("explain", ""), headers.get("url_path", "")]
    for item, value in zip(request.inputs, values, strict=True):
        facts += item.name, item.content_type, str(len(value))
    digest.update(repr(facts).encode())
    for value in values:
        size = len(value)
        if whole or size <= SAMPLED_ABOVE_BYTES:
            digest.update(value)
        else:
            for number in range(SAMPLES):
                start = (size - SAMPLE_BYTES) * number // (SAMPLES - 1)
                digest.update(value[start : start + SAMPLE_BYTES])
    return digest.digest()
