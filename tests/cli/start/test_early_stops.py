import signal
import subprocess
import sys

import pytest

STOPPED = """
import os, signal, sys
from torchrelay.cli.start import early_stops

signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[2] == "nohup" else signal.SIG_DFL)
early_stops.heed()
try:
    os.kill(os.getpid(), int(sys.argv[1]))
    print("goes on")
finally:
    print("cleans up")
"""


@pytest.mark.parametrize(
    ("number", "how", "output"),
    [
        (signal.SIGTERM, "plain", "cleans up"),
        (signal.SIGHUP, "plain", "cleans up"),
        (signal.SIGTERM, "nohup", "cleans up"),
        (signal.SIGHUP, "nohup", "goes on\ncleans up"),
    ],
)
def test_a_command_that_is_told_to_stop_cleans_up_and_ends_well(number: int, how: str, output: str) -> None:
    words = [sys.executable, "-P", "-c", STOPPED, str(int(number)), how]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == output
