"""Where gRPC is listened for: what is refused, and that no other server gets in."""

import socket
from typing import Any

import pytest

from tests.integration.fleet import own_address
from torchrelay.gateway.grpc import listen_addresses
from torchrelay.shared.settings import GatewaySettings, SettingsError


def settings(**more: Any) -> GatewaySettings:
    return GatewaySettings(**{"enable_grpc": True, **more})


def test_nothing_is_listened_for_where_grpc_is_off() -> None:
    off = settings(enable_grpc=False, grpc_inference_address="0.0.0.0", grpc_management_port=7070)
    assert listen_addresses.all_of(off) == {}
    assert listen_addresses.faults(off) == []
    assert listen_addresses.hold(off) == []


def test_hosts_are_written_as_grpc_wants_them() -> None:
    found = listen_addresses.all_of(
        settings(grpc_inference_address="::1", grpc_management_address="localhost")
    )
    assert found == {"grpc_inference_port": "[::1]:7070", "grpc_management_port": "localhost:7071"}
    assert listen_addresses.split("[::1]:7070") == ("::1", 7070)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"grpc_inference_address": "http://127.0.0.1"}, "is no address"),
        ({"grpc_inference_address": "127.0.0.1:7070"}, "is no address"),
        ({"grpc_management_address": ""}, "is no address"),
        ({"grpc_inference_address": "0.0.0.0"}, "nothing checks who calls"),
        ({"grpc_management_port": 7070}, "are the same"),
        ({"enable_grpc_ssl": True, "certificate_file": "a"}, "enable_grpc_ssl needs"),
        (
            {"grpc_server": "pygrpc-native", "grpc_inference_max_connection_age_ms": 1000},
            "grpc_inference_max_connection_age_ms is not to be had with grpc_server=pygrpc-native",
        ),
    ],
)
def test_what_cant_work_is_said(more: dict[str, Any], said: str) -> None:
    (fault,) = listen_addresses.faults(settings(**more))
    assert said in fault


@pytest.mark.parametrize(
    "more",
    [
        {"grpc_inference_address": "0.0.0.0", "insecure": True},
        {"grpc_inference_address": "0.0.0.0", "token_authorization": True},
        {"enable_grpc_ssl": True, "keystore": "a"},
    ],
)
def test_what_can_work_has_no_fault(more: dict[str, Any]) -> None:
    assert listen_addresses.faults(settings(**more)) == []


def test_a_server_that_isnt_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen_addresses, "find_spec", lambda _: None)
    [fault] = listen_addresses.faults(GatewaySettings(enable_grpc=True, grpc_server="pygrpc-native"))
    assert "pip install 'torchrelay[grpc-native]'" in fault


def test_an_address_that_is_held_is_kept_from_others_and_shared_by_those_who_ask_to() -> None:
    address = own_address()
    config = settings(grpc_inference_address=address, grpc_management_address=address)
    held = listen_addresses.hold(config)
    try:
        with pytest.raises(SettingsError, match="in use by another process"):
            listen_addresses.hold(config)
        with socket.socket() as ours:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):  # as grpc does
                ours.setsockopt(socket.SOL_SOCKET, option, 1)
            ours.bind((address, 7070))
            ours.listen()
            # Who holds it listens to nobody: all connections are the server's.
            for _ in range(8):
                with socket.create_connection((address, 7070), timeout=10):
                    ours.accept()[0].close()
    finally:
        for one in held:
            one.close()
    for one in listen_addresses.hold(config):
        one.close()
