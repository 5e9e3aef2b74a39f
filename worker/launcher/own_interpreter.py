"""A worker in an interpreter of its own, for models whose requirements may replace what we import, too.

The launcher execs it in a process that it has forked. The spec comes in a file that has no name.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

from torchrelay.worker.launcher.launcher_protocol import WorkerSpec, read_spec, write_spec

#: `ts`, which handlers import, lies here.
COMPAT = Path(__file__).parents[1] / "compat"
#: Our packages first, by their place, whatever others are called like them; then what was installed.
_START = """
import sys
sys.path.insert(0, sys.argv[1])
import torchrelay.shared, torchrelay.worker
sys.path[:1] = [path for path in sys.argv[2:3] if path]
from torchrelay.worker.launcher import own_interpreter
sys.exit(own_interpreter.main(int(sys.argv[3]), int(sys.argv[4])))
"""


def become(spec: WorkerSpec, status_fd: int) -> NoReturn:
    """Go on as a worker in the spec's interpreter."""
    spec_fd = write_spec(spec)
    for fd in (spec_fd, status_fd):
        os.set_inheritable(fd, True)
    ours = str(Path(__file__).parents[3])
    # -P: the folder that the node was started in has nothing that a handler should find.
    command = [spec.interpreter, "-P", "-c", _START, ours, spec.packages, str(spec_fd), str(status_fd)]
    os.execv(spec.interpreter, command)


def main(spec_fd: int, status_fd: int) -> int:
    """Run the worker; return its exit code."""
    spec = read_spec(spec_fd)
    os.set_inheritable(status_fd, False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # typeshed: TextIO has it not
    # `ts`, which handlers import, comes from here, also where TorchServe itself is installed.
    sys.path.insert(0, str(COMPAT))
    from torchrelay.worker.model import loading, process

    return process.run(spec, status_fd, loading.our_modules())
