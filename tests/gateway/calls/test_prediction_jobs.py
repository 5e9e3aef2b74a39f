"""Bounds of inputs, and what a worker's failure is to clients of any protocol."""

import pytest

from torchrelay.gateway.calls import prediction_jobs
from torchrelay.shared import errors
from torchrelay.shared.wire import codec


def test_too_many_inputs_and_names_that_are_too_long_are_refused() -> None:
    most = [(f"{number}", "", b"") for number in range(prediction_jobs.INPUTS_LIMIT)]
    prediction_jobs.require_bounds(most)
    longest = "x" * prediction_jobs.NAME_LIMIT_CHARACTERS
    prediction_jobs.require_bounds([(longest, "", b"")])
    for inputs in ([*most, ("one more", "", b"")], [(f"{longest}x", "", b"")]):
        with pytest.raises(errors.BadRequest):
            prediction_jobs.require_bounds(inputs)


@pytest.mark.parametrize(("said", "status"), [(418, 418), (199, 503), (1000, 503), (0, 503)])
def test_a_failure_has_the_handlers_status_where_http_has_it(said: int, status: int) -> None:
    answered = codec.Response(said, "", (), b"", ("PredictionFailed", "no", "because"))
    error, found = prediction_jobs.failure(answered)
    assert (type(error), error.message, error.details, found) == (
        errors.PredictionFailed,
        "no",
        "because",
        status,
    )
