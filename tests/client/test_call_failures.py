"""Which error an answer is."""

import msgspec
import pytest

from torchrelay import client as api
from torchrelay.client.call_failures import answered_error, was_refused
from torchrelay.shared import errors
from torchrelay.shared.api_bodies import ErrorBody

#: Of one status and type with others, so that an answer doesn't tell which it is -> what it is raised as.
ALIKE = {
    errors.BrokerUnreachable: errors.ServiceUnavailable,
    errors.WorkerDied: api.ServerFault,
    errors.WorkerStartFailed: api.ServerFault,
    errors.RequestQuarantined: api.ServerFault,
    errors.WorkflowStepFailed: api.ServerFault,
    errors.StoreFailed: api.ServerFault,
    errors.InternalError: api.ServerFault,
}


@pytest.mark.parametrize("leaf", errors.BY_NAME.values(), ids=lambda leaf: leaf.__name__)
def test_each_error_of_the_server_is_raised_as_its_class(leaf: type[errors.RelayError]) -> None:
    body = ErrorBody(code=leaf.status, type=leaf.type, message="what", details="why")
    made = answered_error(leaf.status, {"x-request-id": "r"}, msgspec.json.encode(body))
    assert type(made) is ALIKE.get(leaf, leaf)
    assert (made.status, made.type) == (leaf.status, leaf.type)
    assert (made.message, made.details, made.request_id) == ("what", "why", "r")


def test_all_that_a_call_raises_has_one_base_and_can_be_imported() -> None:
    raised = [getattr(api, name) for name in api.__all__]
    kinds = [one for one in raised if isinstance(one, type) and issubclass(one, Exception)]
    assert all(issubclass(one, api.RelayError) for one in kinds)
    assert {*errors.BY_NAME.values()} - {*ALIKE, errors.ForeignPage} <= {*kinds}


@pytest.mark.parametrize("said", ["-1", "x", "1e9", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 400, "²"])
def test_a_retry_after_that_can_not_be_read_is_a_long_one(said: str) -> None:
    assert answered_error(503, {"retry-after": said}, b"").retry_after_s == 60
    assert answered_error(503, {"retry-after": "07"}, b"").retry_after_s == 7


def test_what_a_handler_answers_with_503_was_not_refused_unless_it_says_so() -> None:
    assert was_refused(answered_error(503, {"retry-after": "1"}, b"busy"))
    assert not was_refused(answered_error(503, {}, b"busy"))
    assert not was_refused(answered_error(500, {"retry-after": "1"}, b""))
    assert not was_refused(errors.PredictionFailed("Prediction failed"))


def test_a_refusal_of_size_has_no_body_and_is_known_by_its_status() -> None:
    assert type(answered_error(413, {}, b"")) is errors.RequestTooLarge


def test_somebody_elses_error_is_shown_in_part_and_kept_whole() -> None:
    made = answered_error(400, {"a": "b"}, b'"\xff' + b"x" * 5000)
    assert isinstance(made, api.ErrorStatus)
    assert len(made.message) < 400
    assert (made.status, len(made.content), made.headers) == (400, 5002, {"a": "b"})
