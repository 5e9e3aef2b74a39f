"""The time of a call, and how much is read of its answer."""

import pytest

from torchrelay.client.attempts import ERROR_LIMIT_BYTES, GRACE_S, Attempts, CallLimits
from torchrelay.client.call_failures import AnswerTimeout, ErrorStatus, UnreadableAnswer
from torchrelay.client.http_calls import Call
from torchrelay.client.inference_calls import Prediction, ping, predict
from torchrelay.client.management_calls import fleet
from torchrelay.client.retry_policy import Retries
from torchrelay.shared.errors import ServiceUnavailable


def begun(
    call: Call[Prediction], timeout_s: float | None = None, limit_bytes: int = 10
) -> Attempts[Prediction]:
    limits = CallLimits(timeout_s=timeout_s, answer_limit_bytes=limit_bytes)
    return Attempts(call, "http://a:1", limits, Retries(), 100.0)


def test_all_tries_share_the_time_of_a_call_and_the_server_hears_what_is_left() -> None:
    attempts = begun(predict("m", b"abc", content_type="a/b", timeout_s=2))
    assert attempts.headers(100.0) == {
        "content-type": "a/b", "content-length": "3", "x-request-timeout-ms": "2000",
    }  # fmt: skip
    assert attempts.headers(101.5)["x-request-timeout-ms"] == "500"
    assert attempts.timeouts(101.5) == {
        "connect": 0.5,
        "read": 0.5 + GRACE_S,
        "write": 0.5 + GRACE_S,
        "pool": 0.5,
    }
    refused = ServiceUnavailable("full", retry_after_s=1)
    assert attempts.pause_s(refused, 100.5, 0) == 1
    with pytest.raises(ServiceUnavailable):
        attempts.pause_s(refused, 101.0, 0)  # the next try would come too late
    with pytest.raises(AnswerTimeout, match="in 2 s"):
        attempts.headers(102.0)


def test_without_a_limit_the_servers_own_end_a_prediction() -> None:
    assert begun(predict("m")).timeouts(1e6) == {"connect": 5.0, "read": None, "write": None, "pool": None}
    assert "x-request-timeout-ms" not in begun(predict("m")).headers(1e6)
    assert begun(predict("m"), timeout_s=3).headers(100.0)["x-request-timeout-ms"] == "3000"
    assert begun(predict("m", timeout_s=1e9)).headers(100.0)["x-request-timeout-ms"] == "86400000"


def test_management_has_a_limit_of_its_own_that_the_server_is_not_told() -> None:
    attempts = Attempts(
        fleet(), "http://a:1", CallLimits(timeout_s=1, answer_limit_bytes=1), Retries(), 100.0
    )
    assert attempts.headers(100.0) == {}
    assert attempts.timeouts(100.0)["read"] == 30 + GRACE_S


def test_an_answer_is_read_up_to_its_limit_and_an_error_up_to_what_is_shown() -> None:
    reading = begun(predict("m")).begin(200, {})
    assert reading.take(b"0123456789", 100.0)
    assert reading.end().content == b"0123456789"
    with pytest.raises(UnreadableAnswer, match="more than 10 bytes"):
        reading.take(b"x", 100.0)
    failing = begun(predict("m")).begin(500, {})
    assert failing.take(b"x" * ERROR_LIMIT_BYTES, 100.0)
    assert not failing.take(b"x", 100.0)
    with pytest.raises(ErrorStatus):
        failing.end()


def test_an_answer_that_drips_ends_with_its_time() -> None:
    reading = begun(predict("m", timeout_s=2)).begin(200, {})
    assert reading.take(b"x", 102.0)
    with pytest.raises(AnswerTimeout):
        reading.take(b"x", 102.1 + GRACE_S)


def test_a_redirect_is_not_followed_and_an_error_that_is_an_answer_is_read() -> None:
    with pytest.raises(UnreadableAnswer, match="sends callers to http://b"):
        begun(predict("m")).begin(307, {"location": "http://b"})
    limits = CallLimits(timeout_s=None, answer_limit_bytes=10)
    assert not Attempts(ping(), "http://a:1", limits, Retries(), 0).begin(500, {}).is_error
