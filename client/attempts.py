"""One call from its first try to its end: its time, what is read of its answer, when it is tried again.

Pure: both clients do the I/O that it says. Times are those of a monotonic clock.
"""

from collections.abc import Mapping
from math import inf
from typing import Generic, TypeVar

import msgspec

from torchrelay.client.call_failures import (
    AnswerTimeout,
    UnreadableAnswer,
    answered_error,
)
from torchrelay.client.http_calls import Call, ReceivedAnswer
from torchrelay.client.retry_policy import Retries
from torchrelay.shared.deadlines import TIMEOUT_HEADER, TIMEOUT_LIMIT_MS
from torchrelay.shared.errors import RelayError
from torchrelay.shared.quoting import quoted

T = TypeVar("T")
#: A host that is there answers sooner, whatever the server does.
CONNECT_LIMIT_S = 5.0
#: The server answers at the deadline that it was told; what comes then needs a moment.
GRACE_S = 1.0
#: Of an error that isn't the server's own; its own are short.
ERROR_LIMIT_BYTES = 1024 * 1024
REDIRECTS = range(300, 400)


class CallLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client allows for calls that don't say."""

    timeout_s: float | None
    answer_limit_bytes: int


class Attempts(Generic[T]):
    """The tries of one call."""

    def __init__(self, call: Call[T], url: str, limits: CallLimits, retries: Retries, now: float) -> None:
        self.call = call
        self.url = url
        self._retries = retries
        self._limit_bytes = call.limit_bytes or limits.answer_limit_bytes
        timeout_s = call.timeout_s
        if timeout_s is None and call.is_deadline_told:
            timeout_s = limits.timeout_s
        self._timeout_s = timeout_s
        self._ends_at = inf if timeout_s is None else now + timeout_s
        self._failed = 0

    def headers(self, now: float) -> dict[str, str]:
        """Return the headers of the next try. Raises AnswerTimeout where no time is left for it."""
        headers = dict(self.call.headers)
        body = self.call.body
        if body is not None:
            if body.content_type is not None:
                headers["content-type"] = body.content_type
            if body.length is not None:
                headers["content-length"] = str(body.length)
        left_s = self._left_s(now)
        if self.call.is_deadline_told and left_s is not None:
            headers[TIMEOUT_HEADER] = str(min(max(1, int(left_s * 1000)), TIMEOUT_LIMIT_MS))
        return headers

    def timeouts(self, now: float) -> dict[str, float | None]:
        """Return how long each step of the next try may take, in httpx2's words."""
        left_s = self._left_s(now)
        if left_s is None:
            return {"connect": CONNECT_LIMIT_S, "read": None, "write": None, "pool": None}
        patience_s = left_s + GRACE_S
        return {
            "connect": min(CONNECT_LIMIT_S, left_s),
            "read": patience_s,
            "write": patience_s,
            "pool": left_s,
        }

    def begin(self, status: int, headers: Mapping[str, str]) -> "AnswerReading":
        """Begin to read an answer, whose head has come. Raises UnreadableAnswer for a redirect."""
        if status in REDIRECTS:
            target = quoted(headers.get("location", ""))
            raise UnreadableAnswer(f"{self.url} answered {status}, and sends callers to {target}")
        head = ReceivedAnswer(self.call.api, self.url, status, headers, pieces=[])
        is_error = status >= 400 and status not in self.call.also_read
        limit_bytes = ERROR_LIMIT_BYTES if is_error else self._limit_bytes
        return AnswerReading(head, limit_bytes, self._ends_at + GRACE_S, is_error=is_error)

    def pause_s(self, error: RelayError, now: float, chance: float) -> float:
        """Return how long to wait after a failed try; raise its error if there is no further one."""
        self._failed += 1
        body = self.call.body
        pause_s = self._retries.pause_before(self._failed, error, self.call.repeated, chance)
        if pause_s is None or now + pause_s >= self._ends_at or not (body is None or body.can_be_sent_again):
            raise error
        return pause_s

    def require_time(self, now: float) -> None:
        """Raise AnswerTimeout where no time is left."""
        if now >= self._ends_at:
            raise self.too_late()

    def require_time_to_end(self, now: float) -> None:
        """Raise AnswerTimeout where an answer that has begun should have ended."""
        self.require_time(now - GRACE_S)

    def too_late(self) -> AnswerTimeout:
        """Return the error of a step that took too long."""
        within = "in time" if self._timeout_s is None else f"in {self._timeout_s:g} s"
        return AnswerTimeout(f"{self.url} gave no answer {within}")

    def _left_s(self, now: float) -> float | None:
        self.require_time(now)
        return None if self._timeout_s is None else self._ends_at - now


class AnswerReading:
    """An answer that comes in pieces, up to a size and a time."""

    def __init__(self, head: ReceivedAnswer, limit_bytes: int, ends_at: float, *, is_error: bool) -> None:
        self.is_error = is_error
        self._head = head
        self._limit_bytes = limit_bytes
        self._ends_at = ends_at
        self._pieces: list[bytes] = []
        self._size = 0

    def take(self, piece: bytes, now: float) -> bool:
        """Take a piece; tell whether more are wanted. Raises UnreadableAnswer and AnswerTimeout."""
        url = self._head.url
        if now > self._ends_at:
            raise AnswerTimeout(f"the answer of {url} did not end in time")
        self._size += len(piece)
        if self._size > self._limit_bytes:
            if self.is_error:
                return False  # what it says is at its beginning
            raise UnreadableAnswer(f"the answer of {url} has more than {self._limit_bytes} bytes")
        self._pieces.append(piece)
        return True

    def end(self) -> ReceivedAnswer:
        """Return the answer, all of whose pieces have come. Raises the error that it is."""
        answer = msgspec.structs.replace(self._head, pieces=self._pieces)
        if self.is_error:
            raise answered_error(answer.status, answer.headers, answer.content)
        return answer
