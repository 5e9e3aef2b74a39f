"""Codes for statuses, and bounds of what is sent of an error's text."""

from urllib.parse import quote

import pytest

from torchrelay.gateway.grpc import grpc_errors
from torchrelay.shared import errors


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "INVALID_ARGUMENT"), (401, "UNAUTHENTICATED"), (403, "PERMISSION_DENIED"), (404, "NOT_FOUND"),
     (405, "FAILED_PRECONDITION"), (409, "ABORTED"), (413, "RESOURCE_EXHAUSTED"), (416, "OUT_OF_RANGE"),
     (429, "RESOURCE_EXHAUSTED"), (499, "CANCELLED"), (500, "INTERNAL"), (501, "UNIMPLEMENTED"),
     (503, "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED"), (507, "INTERNAL"), (599, "INTERNAL"),
     (200, "UNKNOWN"), (302, "UNKNOWN"), (600, "UNKNOWN"), (999, "UNKNOWN")],
)  # fmt: skip
def test_a_handlers_status_has_its_code(status: int, code: str) -> None:
    assert grpc_errors.code_of(status).name == code


@pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 100_000, "\x00" * 100_000, "🙂" * 10_000])
def test_what_is_sent_of_a_long_text_fits_what_clients_read(text: str) -> None:
    made = grpc_errors.refusal(errors.ServiceUnavailable(text, text), "inference")
    assert 0 < len(quote(made.description)) <= 3 * grpc_errors.DESCRIPTION_LIMIT_BYTES
    sent = sum(len(name) + len(value) for name, value in made.metadata())
    assert sent < 12 * 1024


@pytest.mark.parametrize("error", errors.BY_NAME.values(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_of_its_own_kind(error: type[errors.RelayError]) -> None:
    for api in ("inference", "management"):
        made = grpc_errors.refusal(error("text"), api)
        is_not_caught = error in (errors.Conflict, errors.InvalidModelVersion)  # by TorchServe
        assert made.code.name != "OK"
        assert (made.code.name == "UNKNOWN") == is_not_caught
        assert made.description.startswith(
            "Model API disabled" if error is errors.MethodNotAllowed else "text"
        )
