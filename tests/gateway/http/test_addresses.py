"""Addresses of listeners, and the sockets bound to them."""

import socket
from pathlib import Path

import pytest

from torchrelay.gateway.http import addresses
from torchrelay.shared.settings import GatewaySettings, SettingsError


@pytest.mark.parametrize(
    ("address", "setting", "key"),
    [
        ("http://127.0.0.1:8080", "inference_address", 8080),
        ("http://127.0.0.1", "inference_address", 80),
        ("https://127.0.0.1", "inference_address", 443),
        ("http://127.0.0.1", "management_address", 8081),
        ("https://127.0.0.1", "metrics_address", 8445),
        ("unix:/run/x", "inference_address", "/run/x"),
        ("unix:///run/x", "inference_address", "/run/x"),
    ],
)
def test_a_listener_is_known_by_its_port_or_path(address: str, setting: str, key: addresses.Key) -> None:
    assert addresses.key(address, setting) == key


@pytest.mark.parametrize(
    "address", ["127.0.0.1:80", "ftp://127.0.0.1", "http://", "http://a:b", "http://a:99999"]
)
def test_what_is_no_address_is_refused_with_its_setting(address: str) -> None:
    with pytest.raises(SettingsError, match="management_address"):
        addresses.key(address, "management_address")


def config(**changes: object) -> GatewaySettings:
    named = {"inference_address": "http://127.0.0.1:0", "management_address": "http://127.0.0.1:0",
             "enable_metrics_api": False}  # fmt: skip
    return GatewaySettings(**{**named, **changes})  # type: ignore[arg-type]  # its own fields, by name


def test_equal_addresses_share_a_socket(tmp_path: Path) -> None:
    path = f"unix:{tmp_path / 'both'}"
    (listener,) = addresses.bind_all(config(inference_address=path, management_address=path))
    listener.close()


def test_one_port_for_two_addresses_is_refused() -> None:
    both = config(inference_address="http://127.0.0.1:8080", management_address="http://127.0.0.2:8080")
    with pytest.raises(SettingsError, match="choose another"):
        addresses.bind_all(both)


def test_what_others_can_reach_needs_keys_or_the_operators_word() -> None:
    with pytest.raises(SettingsError, match="--insecure"):
        addresses.bind_all(config(inference_address="http://0.0.0.0:0"))


def test_a_port_in_use_is_told_and_what_was_bound_before_is_let_go(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = config(
            inference_address=f"unix:{tmp_path / 'a'}", management_address=f"http://127.0.0.1:{port}"
        )
        with pytest.raises(SettingsError, match="in use by another process"):
            addresses.bind_all(taken)
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with probe, pytest.raises(ConnectionRefusedError):
        probe.connect(str(tmp_path / "a"))


def test_the_file_of_a_dead_server_is_removed_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    both = config(inference_address=f"unix:{path}", management_address=f"unix:{path}")
    (dead,) = addresses.bind_all(both)
    dead.close()
    (living,) = addresses.bind_all(both)
    with living, pytest.raises(SettingsError, match="in use"):
        addresses.bind_all(both)


def test_only_https_listeners_speak_tls() -> None:
    mixed = config(inference_address="https://127.0.0.1:8443", management_address="http://127.0.0.1:8081")
    assert addresses.encrypted(mixed) == {8443}
