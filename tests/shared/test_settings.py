"""Settings: which keys can be guessed, which addresses others reach, and that they travel whole."""

import msgspec
import pytest

from torchrelay.shared import settings
from torchrelay.shared.settings import BrokerSettings, GatewaySettings, LogLimits, NodeSettings, StaticKey


@pytest.mark.parametrize(
    "made",
    [
        BrokerSettings(state_dir="/s", static_keys=(StaticKey("inference", "n", "kT9!xQ2@vL5#zR8$"),)),
        GatewaySettings(log_limits=LogLimits(0, 3), cors_allowed_origin="*"),
        NodeSettings(name="n", cache_dir="/c"),
    ],
)
def test_one_process_hands_its_settings_to_another_whole(made: settings.Settings) -> None:
    assert msgspec.json.decode(made.to_json(), type=type(made)) == made


@pytest.mark.parametrize(
    "key",
    [
        "",
        "short",
        "a" * 64,
        "abcdefghijklmnop",
        "1234567890123456",
        "password12345678",
        "kT9!kT9!kT9!kT9!kT9!",
    ],
)
def test_a_key_of_runs_and_repetitions_can_be_guessed(key: str) -> None:
    assert settings.is_guessable_key(key)


def test_a_drawn_key_cannot() -> None:
    assert not settings.is_guessable_key("kT9!xQ2@vL5#zR8$")


@pytest.mark.parametrize(
    ("address", "is_reachable"),
    [
        ("http://127.0.0.1:8080", False),
        ("http://localhost:8080", False),
        ("http://[::1]:8080", False),
        ("http://127.8.9.1", False),
        ("unix:/run/x", False),
        ("ipc:///run/x", False),
        ("http://0.0.0.0:8080", True),
        ("http://[::]:8080", True),
        ("http://10.0.0.1:8080", True),
        ("tcp://host:7700", True),
    ],
)
def test_only_loopback_and_files_are_out_of_other_hosts_reach(address: str, is_reachable: bool) -> None:
    assert settings.is_reachable_from_outside(address) is is_reachable


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        ("ipc:///run/x", False),
        ("ipc://@name", True),
        ("tcp://127.0.0.1:7700", True),
        ("tcp://10.0.0.1:7700", True),
    ],
)
def test_a_brokers_socket_is_its_users_alone_only_where_it_is_a_file(address: str, is_open: bool) -> None:
    assert settings.is_open_to_others(address) is is_open


def test_zero_stands_for_what_fits_the_largest_request() -> None:
    config = GatewaySettings(max_request_size=1000)
    assert config.in_flight_bytes > 1000
    assert GatewaySettings(in_flight_limit_bytes=5).in_flight_bytes == 5
    assert config.unsent_bytes == settings.UNSENT_BYTES
    assert GatewaySettings(unsent_limit_bytes=7).unsent_bytes == 7


def test_the_environment_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHRELAY_TEST", "a")
    before = settings.environment()
    settings.add_to_environment({"TORCHRELAY_TEST": "b"})
    assert (before["TORCHRELAY_TEST"], settings.environment()["TORCHRELAY_TEST"]) == ("a", "b")
