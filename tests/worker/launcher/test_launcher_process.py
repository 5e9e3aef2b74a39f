import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests.worker.models import start_worker
from torchrelay.shared.settings import environment
from torchrelay.shared.wire.redial_policy import BrokerPlace
from torchrelay.worker.launcher.launcher_protocol import (
    Exited,
    Fork,
    LastWords,
    Report,
    WorkerSpec,
    write_spec,
)
from torchrelay.worker.node.launcher_handle import Launcher, executed

pytestmark = pytest.mark.integration


def test_a_launcher_whose_node_died_before_it_began_ends_without_waiting_for_torch() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait(10)
        command = [sys.executable, "-P", "-X", "importtime", "-m", "torchrelay.worker.launcher"]
        done = subprocess.run(
            [*command, str(theirs.fileno()), str(dead.pid)],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "msgspec" in done.stderr
    assert "worker.model.process" not in done.stderr


def test_a_closed_launcher_ends_by_itself() -> None:
    launcher = Launcher(partial(executed, environment()))
    launcher.preload(["torch"])
    assert launcher.close(60) == 0


def test_a_launcher_that_has_a_gpu_in_use_ends_since_no_worker_could_use_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torch.py").write_text("class cuda:\n    is_initialized = lambda: True\n")
    launcher = Launcher(partial(executed, {**environment(), "PYTHONPATH": str(tmp_path)}))
    launcher.preload(["torch"])
    assert launcher.report() is None
    assert launcher.close(60) == 1
    assert "no worker could use it" in capfd.readouterr().err


#: A launcher on a host that has no room for one more process.
CANNOT_FORK = """
import errno, os, socket, sys
from torchrelay.worker.launcher.launcher_process import WorkerForkServer
def fork():
    raise OSError(errno.ENOMEM, "Cannot allocate memory")
os.fork = fork
WorkerForkServer(socket.socket(fileno=int(sys.argv[1]))).serve()
"""


def test_where_no_process_can_be_forked_the_launcher_says_so_and_goes_on() -> None:
    spec = WorkerSpec(start_worker(), "n", BrokerPlace(("tcp://127.0.0.1:1",)), "/", 1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(60)
    with ours:
        command = [sys.executable, "-P", "-c", CANNOT_FORK, str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as launcher:
            theirs.close()
            for worker_id in (1, 2):
                said, says = os.pipe()
                fds = [write_spec(spec), os.dup(says), os.dup(says), says]
                socket.send_fds(ours, [msgspec.json.encode(Fork(worker_id))], fds)
                for fd in fds:
                    os.close(fd)
                assert msgspec.json.decode(ours.recv(4096), type=Report) == Exited(worker_id, 1, None)
                with open(said, "rb") as file:
                    words = msgspec.json.decode(file.read(), type=LastWords)
                assert words == LastWords("no process can be started: Cannot allocate memory", True)
            ours.close()
            assert launcher.wait(60) == 0
