"""Which calls are tried again, and when."""

import pytest

from torchrelay.client.call_failures import (
    AnswerTimeout,
    CertificateNotTrusted,
    ConnectionLost,
    ErrorStatus,
    ServerFault,
    ServerNotReached,
    UnreadableAnswer,
)
from torchrelay.client.retry_policy import NO_RETRIES, Repeated, Retries
from torchrelay.shared.errors import PredictionTimeout, RelayError, ServiceUnavailable, TooManyWrongKeys

EACH: tuple[Repeated, ...] = ("harmless", "runs twice", "harmful")
REFUSED = ServiceUnavailable("full", retry_after_s=4)


@pytest.mark.parametrize(
    ("error", "repeated"),
    [
        (ServerNotReached("no server"), ["harmless", "runs twice", "harmful"]),
        (REFUSED, ["harmless", "runs twice"]),
        (ErrorStatus(503, {"retry-after": "1"}, b""), ["harmless", "runs twice"]),
        (ConnectionLost("broke"), ["harmless"]),
        (CertificateNotTrusted("no"), []),
        (AnswerTimeout("late"), []),
        (UnreadableAnswer("what"), []),
        (ServerFault("failed"), []),
        (PredictionTimeout("late"), []),
        (TooManyWrongKeys("no"), []),
        (ErrorStatus(503, {}, b""), []),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_is_tried_again_depends_on_what_a_try_may_have_done(
    error: RelayError, repeated: list[str]
) -> None:
    assert [one for one in EACH if Retries().pause_before(1, error, one, 0.5) is not None] == repeated
    assert NO_RETRIES.pause_before(1, error, "harmless", 0.5) is None


def test_a_prediction_that_was_lost_is_repeated_where_that_is_wished() -> None:
    wished = Retries(resend_lost=True)
    assert wished.pause_before(1, ConnectionLost("broke"), "runs twice", 0) is not None
    assert wished.pause_before(1, ConnectionLost("broke"), "harmful", 0) is None


def test_nobody_comes_before_the_server_says_and_not_all_at_once() -> None:
    pauses = [Retries().pause_before(1, REFUSED, "harmless", chance) for chance in (0, 0.5, 1)]
    assert pauses == [4, 4.5, 5]
    assert Retries(pause_limit_s=3).pause_before(1, REFUSED, "harmless", 0) is None


def test_pauses_grow_up_to_a_limit_and_so_many_times() -> None:
    patient = Retries(limit=5, pause_s=1, pause_limit_s=6)
    lost = ServerNotReached("no server")
    assert [patient.pause_before(tries, lost, "harmful", 1) for tries in range(1, 7)] == [1, 2, 4, 6, 6, None]
    assert patient.pause_before(1, lost, "harmful", 0) == 0.5
