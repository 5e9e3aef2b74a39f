"""Commands that are started without their standard streams."""

import subprocess
import sys

CODE = """
from torchrelay.cli.start import standard_streams
standard_streams.open_missing()
import os, sys
opened = os.open("/dev/null", os.O_RDONLY)
print("lost", file=sys.stdout); print("lost", file=sys.stderr)
assert sys.stdin.read() == ""
sys.exit(0 if opened > 2 else 1)
"""


def test_no_file_takes_the_place_of_a_stream_that_is_closed() -> None:
    command = ["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, CODE]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
