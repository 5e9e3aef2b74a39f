import socket
import subprocess
import sys

import pytest

from torchrelay.shared.settings import environment
from torchrelay.worker.children import Launcher

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
    assert "worker.process" not in done.stderr


def test_a_closed_launcher_ends_by_itself() -> None:
    launcher = Launcher(environment())
    assert launcher.close(60) == 0
