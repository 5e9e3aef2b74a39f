"""Values of config.properties: what a parser takes and what it refuses."""

import pytest

from torchrelay.shared.torchserve import config_parsers


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8080",
        "ftp://host",
        "http://",
        "http://:8080",
        "http://host:99999",
        "http://host:0",
        "http://user@host:1",
        "http://host/path",
        "http://[::1",
        "unix:relative",
        "unix:/",
    ],
)
def test_an_address_that_can_not_be_bound_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="Invalid binding address"):
        config_parsers.parse_address(address)


@pytest.mark.parametrize(
    "address", ["http://h", "https://127.0.0.1:8443", "unix:/run/x.sock", "http://[::1]:1/"]
)
def test_an_address_that_can_be_bound_is_taken(address: str) -> None:
    assert config_parsers.parse_address(f" {address} ") == address.rstrip("/")


@pytest.mark.parametrize("text", ["", "none", " NONE ", ",, ,"])
def test_no_model_at_all_is_a_list_of_none(text: str) -> None:
    assert config_parsers.parse_load_models(text) == ()
