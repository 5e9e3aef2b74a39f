"""`torchrelay serve`, as somebody runs it in a terminal."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.archives import make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("preloaded_torch")]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server that is up, for tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("serve")
    with fleet(folder, make_store(folder / "models", "echo")) as made:
        made.serve("--models", "all")
        eventually(lambda: made.ready("echo"))
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path, make_store(tmp_path / "models", "echo")) as made:
        yield made


def test_one_command_serves_a_model_and_says_how_to_ask_it(serving: Fleet) -> None:
    eventually(lambda: "Ctrl-C stops everything" in serving.output())
    assert serving.predict("echo", b"\x00raw").content == b"\x00raw"
    assert "Model server started." in serving.output()
    assert f"curl -T FILE {serving.inference}/predictions/echo" in serving.output()
    assert serving.http.get(f"{serving.inference}/ping").json() == {"status": "Healthy"}
    assert 'torchrelay_requests_total{model="echo"' in serving.http.get(f"{serving.metrics}/metrics").text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_takes_less_than_five_seconds_and_leaves_no_process(
    server: Fleet, number: signal.Signals
) -> None:
    process = server.serve("--models", "all")
    eventually(lambda: server.ready("echo"))
    server.descendants()
    began = time.monotonic()
    process.send_signal(number)
    process.wait(10)
    eventually(lambda: not server.descendants())
    assert time.monotonic() - began < 5
    assert process.returncode == 0


def test_what_nohup_has_it_ignore_stays_ignored_in_every_process(server: Fleet) -> None:
    server.prefix = ["nohup"]
    server.serve("--models", "all", "--processes", "2")
    eventually(lambda: server.ready("echo"))
    everybody = server.descendants()
    assert len(everybody) > 5
    for process in everybody:
        process.send_signal(signal.SIGHUP)
    assert server.predict("echo", b"still here").content == b"still here"
    assert set(server.descendants()) >= set(everybody)
    assert {process for process in everybody if not ignores(process, signal.SIGHUP)} == set()


def test_a_hangup_that_nobody_ignores_stops_it(server: Fleet) -> None:
    process = server.serve("--models", "all")
    process.send_signal(signal.SIGHUP)
    assert process.wait(10) == 0


def test_a_server_without_standard_streams_starts_serves_and_stops(server: Fleet) -> None:
    server.prefix = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    process = server.serve("--models", "all")
    eventually(lambda: server.ready("echo"))
    assert server.predict("echo", b"x").content == b"x"
    # No file of the server's own has come to stand where anybody might print.
    for each in server.descendants():
        streams = {(Path("/proc") / str(each.pid) / "fd" / str(fd)).resolve() for fd in (1, 2)}
        assert all(str(stream) == "/dev/null" or "pipe:" in str(stream) for stream in streams), streams
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    eventually(lambda: not server.descendants())


def ignores(process: psutil.Process, number: signal.Signals) -> bool:
    status = (Path("/proc") / str(process.pid) / "status").read_text()
    [mask] = [line.split()[1] for line in status.splitlines() if line.startswith("SigIgn")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_killing_serve_outright_leaves_no_process(server: Fleet) -> None:
    process = server.serve("--models", "all")
    eventually(lambda: server.ready("echo"))
    assert len(server.descendants()) > 5
    process.kill()
    eventually(lambda: not server.descendants())


def test_what_was_registered_is_there_at_the_next_start(server: Fleet) -> None:
    process = server.serve("--enable-model-api")
    assert server.register("echo.mar", model_name="kept", initial_workers=1).status_code == 200
    process.send_signal(signal.SIGTERM)
    process.wait(10)
    server.serve()
    eventually(lambda: server.ready("kept"))
    assert server.predict("kept").content == b"hello"


def test_a_port_in_use_is_one_line_and_exit_code_1(server: Fleet) -> None:
    with socket.create_server((server.address, 8081)):
        process = server.run("serve", "--model-store", str(server.store), "--ncs", *server.listeners())
        assert process.wait(20) == 1
    (line,) = [line for line in server.output().splitlines() if "8081" in line]
    assert "in use" in line


def test_of_two_servers_that_are_started_at_once_one_serves_and_the_other_says_why(server: Fleet) -> None:
    started = [
        server.run("serve", "--model-store", str(server.store), "--ncs", *server.listeners(),
                   "--cache-dir", str(server.folder / "cache"))
        for _ in range(2)
    ]  # fmt: skip
    eventually(lambda: any(process.poll() is not None for process in started))
    (loser,) = [process for process in started if process.poll() is not None]
    assert loser.returncode == 1
    assert "in use" in server.output()
    (winner,) = [process for process in started if process is not loser]
    server.wait_until_up(winner)


def test_a_server_can_be_stopped_while_it_starts(server: Fleet) -> None:
    process = server.run("serve", "--model-store", str(server.store), "--ncs", *server.listeners(),
                         "--cache-dir", str(server.folder / "cache"), "--models", "all")  # fmt: skip
    eventually(lambda: len(server.descendants()) >= 2)  # the first child has been started
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    eventually(lambda: not server.descendants())


def test_gateway_and_broker_hold_no_torch_and_little_memory(serving: Fleet) -> None:
    checked = 0
    for process in serving.descendants():
        command = " ".join(process.cmdline())
        if "torchrelay gateway" in command or "torchrelay broker" in command:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            assert "libtorch" not in maps, command
            assert process.memory_info().rss < 90 << 20, command
            checked += 1
    assert checked >= 3  # the broker, gunicorn's arbiter, and its process


def test_every_process_is_a_child_of_serve(serving: Fleet) -> None:
    pids = {worker["pid"] for worker in serving.ready("echo")}
    assert pids <= {child.pid for child in psutil.Process(serving.processes[0].pid).children(recursive=True)}


def test_a_broker_that_is_restarted_brings_back_no_model_that_was_unregistered(server: Fleet) -> None:
    server.serve("--models", "all", "--enable-model-api")
    eventually(lambda: "Ctrl-C stops everything" in server.output())
    assert server.http.delete(f"{server.management}/models/echo").status_code == 200
    (broker,) = [p for p in server.descendants() if "torchrelay broker" in " ".join(p.cmdline())]
    broker.kill()
    eventually(lambda: "broker ended" in server.output())
    eventually(lambda: server.status().get("epoch") == 2 and server.status().get("nodes"))
    assert server.status()["models"] == []
