"""What gateways say of a request to workers is told from what clients may send."""

import pytest

from torchrelay.shared.open_inference import job_inputs


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "application/json; charset=utf-8", "text/plain"]
)
def test_what_clients_say_is_no_request(content_type: str) -> None:
    assert not job_inputs.is_request(content_type)


@pytest.mark.parametrize("length", [0, 7, 10**9])
def test_a_request_with_binary_data_says_where_its_json_ends(length: int) -> None:
    said = job_inputs.binary_request(length)
    assert job_inputs.is_request(said)
    assert job_inputs.header_length_in(said) == length


def test_a_request_in_json_has_nothing_behind_it() -> None:
    assert job_inputs.is_request(job_inputs.JSON_REQUEST)
    assert job_inputs.header_length_in(job_inputs.JSON_REQUEST) is None
