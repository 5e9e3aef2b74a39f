"""A child process of serve, for real: it runs its role, and goes when its parent goes."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.support import eventually
from torchrelay.cli.start.child import Launch, LogTarget, packed, unpacked
from torchrelay.shared.settings import BrokerSettings

TALKER = """
import logging, sys
import msgspec
from torchrelay.cli.start.child import LogTarget

msgspec.json.decode(sys.argv[1], type=LogTarget).configure("broker")
for number in range(500):
    logging.getLogger("broker").info("worker.joined", extra={"worker": number})
"""


def run_child() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-c",
            "import sys\nfrom torchrelay.cli.start import child\nsys.exit(child.main('broker'))",
        ],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )


def start_broker(folder: Path, settings: bytes) -> "subprocess.Popen[bytes]":
    child = run_child()
    launch = Launch(
        role="broker",
        settings=msgspec.Raw(settings),
        log=LogTarget(level="WARNING", log_format="text", file=str(folder / "broker.log")),
    )
    assert child.stdin is not None
    child.stdin.write(msgspec.json.encode(launch) + b"\n")
    child.stdin.flush()
    return child


def test_an_environment_of_any_bytes_reaches_a_child() -> None:
    variables = {"PLAIN": "a b", "N\udcff": "\udcfe\n", "LARGE": "x" * 200_000}
    launch = Launch(
        role="broker",
        settings=msgspec.Raw(b"{}"),
        log=LogTarget(level="INFO", log_format="text"),
        variables=packed(variables),
    )
    line = msgspec.json.encode(launch)
    assert b"\n" not in line
    assert unpacked(msgspec.json.decode(line, type=Launch).variables) == variables


@pytest.mark.integration
@pytest.mark.parametrize("log_format", ["text", "json", "torchserve"])
def test_the_log_of_every_part_is_moved_away_however_much_it_says(tmp_path: Path, log_format: str) -> None:
    target = {
        "level": "ERROR",
        "log_format": log_format,
        "file": str(tmp_path / "log"),
        "limits": {"file_bytes": 2000, "files": 2},
    }
    done = subprocess.run(
        [sys.executable, "-c", TALKER, json.dumps(target)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sorted(sizes) == ["log", "log.1", "log.2"]
    assert max(sizes.values()) <= 2000


@pytest.mark.integration
def test_a_child_stops_orderly_when_its_parent_is_gone(tmp_path: Path) -> None:
    settings = BrokerSettings(addresses=(f"ipc://{tmp_path}/b.sock",), state_dir=str(tmp_path / "state"))
    log = tmp_path / "broker.log"
    with start_broker(tmp_path, settings.to_json()) as child:
        eventually(lambda: log.exists() and "broker.started" in log.read_text())
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=5) == 0
    assert "broker.stopped" in log.read_text()


@pytest.mark.integration
def test_a_child_whose_parent_goes_before_it_has_sent_all_ends_without_a_word() -> None:
    with run_child() as child:
        _, said = child.communicate(b'{"role":"bro', timeout=60)
    assert (child.returncode, said) == (0, b"")


@pytest.mark.integration
def test_a_child_that_can_not_start_says_why_and_exits_with_1(tmp_path: Path) -> None:
    nowhere = f"ipc://{tmp_path}/no/such/b.sock"
    settings = BrokerSettings(addresses=(nowhere,), state_dir=str(tmp_path / "state"))
    with start_broker(tmp_path, settings.to_json()) as child:
        assert child.wait(timeout=20) == 1
        assert child.stderr is not None
        assert b"can't listen on" in child.stderr.read()
