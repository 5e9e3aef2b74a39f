"""Starts the fork server of a server's parts, which imports while this process is still about to.

PERF: the first answer of a server comes after 1.51 s instead of 1.59.
"""

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torchrelay.cli.faults import Fault
from torchrelay.shared.settings import NodeSettings, SettingsError, environment
from torchrelay.worker.common import worker_environment

#: -P: a folder called `shared` where serve was started must not shadow ours.
FORK_SERVER_COMMAND = (sys.executable, "-P", "-m", "torchrelay.cli.start.part_forks")


class RunningForkServer(NamedTuple):
    """A fork server, and the socket by which it takes orders."""

    process: "subprocess.Popen[bytes]"
    orders: socket.socket


class ForkServerStart:
    """Starts fork servers with these variables as their whole environment; the first at once."""

    def __init__(self, variables: Mapping[str, str], command: Sequence[str] = FORK_SERVER_COMMAND) -> None:
        """Raises OSError if no process can be started."""
        self._variables = variables
        self._command = command
        self._first: RunningForkServer | None = self._start()

    def take(self) -> RunningForkServer:
        """Return the first, and from the second time on a new one. Raises OSError."""
        first, self._first = self._first, None
        return first or self._start()

    def close(self) -> None:
        """End the first, if nobody has taken it."""
        if self._first:
            process, orders = self.take()
            orders.close()
            process.wait()

    def _start(self) -> RunningForkServer:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env=self._variables,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        return RunningForkServer(process, ours)


def with_environment_of_workers(node: NodeSettings) -> ForkServerStart:
    """Start a fork server for parts whose workers are a node's. Raises Fault."""
    try:
        return ForkServerStart(worker_environment.of_settings(environment(), node))
    except SettingsError as error:
        raise Fault(str(error)) from error
    except OSError as error:
        raise Fault(f"no process can be started: {error.strerror}") from error
