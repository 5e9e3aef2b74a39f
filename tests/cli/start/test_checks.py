"""What is checked before anything starts: each fault is one line that says what to do."""

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from torchrelay.cli.faults import Fault
from torchrelay.cli.main import app
from torchrelay.cli.start import checks
from torchrelay.gateway.grpc import listen_addresses


def serve(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(app, ["serve", "--ncs", *arguments], env=env)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def assert_one_line(result: Result, *words: str) -> None:
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_a_taken_port_is_one_line_with_the_option_that_helps() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert_one_line(serve("--inference-address", address), address, "in use", "--inference-address")


def test_a_host_that_is_not_ours_is_one_line() -> None:
    assert_one_line(serve("--inference-address", "http://192.0.2.1:80", "--insecure"), "can't listen on")


def test_a_missing_store_and_a_missing_or_broken_file_are_one_line(tmp_path: Path) -> None:
    assert_one_line(serve("--model-store", str(tmp_path / "no")), "--model-store directory not found")
    assert_one_line(serve("--ts-config", str(tmp_path / "no")), "--ts-config file", "No such file")
    broken = tmp_path / "config.properties"
    broken.write_text("job_queue_size=x\nmax_request_size=y")
    refused = serve("--ts-config", str(broken))
    assert refused.exit_code == 1
    assert [line.split(":")[0].strip() for line in refused.stderr.splitlines()] == [
        "torchrelay", "job_queue_size", "max_request_size",
    ]  # fmt: skip
    assert serve(TS_CONFIG_FILE=str(broken)).stderr == refused.stderr


def test_a_state_folder_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["serve", "--state-dir", str(tmp_path / "file" / "state")])
    assert_one_line(result, "can't be used", "--state-dir")


def test_an_archive_that_was_named_without_its_ending_is_guessed(tmp_path: Path) -> None:
    for name in ("digits.mar", "digits.tar.gz", "voice", "other.mar"):
        (tmp_path / name).touch()
    result = serve("--model-store", str(tmp_path), "--models", "digits", "voice", "nothing")
    assert_one_line(result, "digits is not in", "did you mean digits.mar or digits.tar.gz?")


@pytest.mark.parametrize("mode", ["Prometheus", "logs"])
def test_a_metrics_mode_that_there_is_not_is_refused(mode: str) -> None:
    assert serve("--metrics-mode", mode).exit_code == 2


def test_dt_switches_tokens_off(tmp_path: Path) -> None:
    for switch in ("--dt", "--disable-token-auth"):
        assert_one_line(
            serve(switch, "--inference-address", "http://0.0.0.0:8080", TORCHRELAY_TOKENS="true"), "--tokens"
        )


def test_a_key_that_is_too_short_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("inference alice short")
    assert_one_line(
        serve("--keys", str(tmp_path / "keys")), "line 1", "16 ASCII characters", "torchrelay keys make"
    )


def test_a_name_that_callers_could_not_ask_by_is_one_line() -> None:
    assert_one_line(serve("--allowed-hosts", "http://gateway"), "'http://gateway' is no name of a host")
    assert_one_line(serve(TORCHRELAY_ALLOWED_HOSTS="a,b:1"), "'b:1' is no name of a host")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:7700", "is no broker's address"),
        ("tcp://127.0.0.1", "is no broker's address"),
        ("tcp://127.0.0.1:65536", "is no broker's address"),
        ("ipc://", "is no broker's address"),
        ("ipc:///" + "x" * 107, "107 bytes"),
        ("tcp://*:7700", "where a broker may listen"),
        ("tcp://:7700", "where a broker may listen"),
        ("tcp://127.0.0.1:0", "where a broker may listen"),
    ],
)
@pytest.mark.parametrize("part", ["gateway", "worker", "ping"])
def test_an_address_that_no_broker_can_have_is_one_line(part: str, address: str, why: str) -> None:
    assert_one_line(CliRunner().invoke(app, [part, "--broker", address]), why)


def test_a_broker_may_listen_on_all_addresses_and_on_any_port() -> None:
    checks.require_broker_addresses("tcp://*:7700", "tcp://127.0.0.1:0", "tcp://[::1]:7700", "ipc://@name")
    with pytest.raises(Fault, match="107 bytes"):
        checks.require_broker_addresses("ipc:///" + "x" * 107)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://127.0.0.1:8081", "http://127.0.0.1:8081"),
        ("http://0.0.0.0", "http://127.0.0.1:8081"),
        ("http://[::]:9", "http://[::1]:9"),
        ("unix:/x.sock", "unix:/x.sock"),
        ("https://0.0.0.0", "https://127.0.0.1:8444"),
        ("https://h:1", "https://h:1"),
    ],
)
def test_what_is_listened_on_can_be_called(address: str, url: str) -> None:
    assert checks.client_url(address, "management") == url


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("no/socket", "there is no folder"),
        ("x" * 120, "at most 107 bytes"),
        ("file", "something else is there"),
    ],
)
def test_a_socket_that_can_not_be_made_is_one_line(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "file").touch()
    assert_one_line(serve("--inference-address", f"unix:{tmp_path}/{path}"), why, path, "--inference-address")


def test_a_certificate_that_can_not_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    config = tmp_path / "config.properties"
    for lines in (
        f"certificate_file={tmp_path}/junk\nprivate_key_file={tmp_path}/junk",
        f"keystore={tmp_path}/junk",
    ):
        config.write_text(f"inference_address=https://127.0.0.1:{free_port()}\n{lines}")
        assert_one_line(serve("--ts-config", str(config)), f"{tmp_path}/junk", "must be")


def test_keys_that_can_not_be_written_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key_file.json").mkdir()
    assert_one_line(serve("--tokens"), "key_file.json", "it is a folder", "--disable-token-auth")


def test_a_free_port_is_no_fault() -> None:
    checks.require_free(f"http://127.0.0.1:{free_port()}", "inference_address")
    with pytest.raises(Fault):
        checks.require_free("http://no.such.host.invalid:1", "inference_address")


def test_grpc_that_is_asked_for_without_its_packages_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen_addresses, "is_installed", lambda: False)
    assert_one_line(serve("--grpc"), "pip install 'torchrelay[grpc]'", "--no-grpc")


def test_a_taken_port_of_grpc_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_one_line(serve("--grpc", "--grpc-inference", address), address, "in use")
