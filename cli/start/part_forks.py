"""The fork server of `torchrelay serve`: `python -m torchrelay.cli.start.part_forks FD`.

Each process of the server is a fork of this one. PERF: they share what they import, in memory and time, and
have it at the same addresses, so that what the CPU has learnt of a branch in one of them it knows in all:
4 to 14 % more requests, and more on a busy machine. Handlers run in forks, too: nothing that they may not see
is in the memory or the environment of this process.

FD is one end of a socket pair whose other end `StartedParts` holds. An order to fork brings the pipe on which
the process gets its launch. When the other end is closed, the server ends after the last of its processes.
"""

import errno
import os
import select
import signal
import sys

import msgspec

from torchrelay.cli.start import child
from torchrelay.shared import clock
from torchrelay.shared.processes.fork_server import GroupForkServer, heed_signals, inherited_socket
from torchrelay.shared.processes.lasting_imports import lasting_imports

PACKET_LIMIT_BYTES = 4096
#: What a process needs beside its grace, once its supervisor has ended, to kill itself.
END_S = 1.0


class ForkPart(msgspec.Struct, frozen=True, tag=True):
    """Start a process of this role; there is none that runs."""

    role: child.Role


class SignalPart(msgspec.Struct, frozen=True, tag=True):
    """Send a signal to a process; SIGKILL goes to everything that it started, too."""

    role: child.Role
    number: int


class PartForked(msgspec.Struct, frozen=True, tag=True):
    """A process runs."""

    role: child.Role
    pid: int


class PartNotForked(msgspec.Struct, frozen=True, tag=True):
    """A process could not be started, for an OSError of this number."""

    role: child.Role
    error: int


class PartEnded(msgspec.Struct, frozen=True, tag=True):
    """A process has ended, with its group; the code is negative for a signal."""

    role: child.Role
    code: int


Order = ForkPart | SignalPart
Report = PartForked | PartNotForked | PartEnded


class PartForkServer(GroupForkServer[child.Role, child.Role]):
    """Forks the processes of a server, by their roles."""

    packet_limit_bytes = PACKET_LIMIT_BYTES
    fds_per_packet = 1

    def _obey(self, packet: bytes, fds: list[int]) -> child.Role | None:
        order: Order = msgspec.json.decode(packet, type=Order)
        if isinstance(order, SignalPart):
            self._signal(order.role, order.number)
            return None
        [launch_fd] = fds
        report: Report
        try:
            pid = self._fork_group(order.role)
        except OSError as error:
            report = PartNotForked(order.role, error.errno or errno.EAGAIN)
        else:
            if pid == 0:
                heed_signals()
                os.dup2(launch_fd, sys.stdin.fileno())
                os.close(launch_fd)
                return order.role
            report = PartForked(order.role, pid)
        os.close(launch_fd)
        self._tell(msgspec.json.encode(report))
        return None

    def _tell_end(self, role: child.Role, code: int) -> None:
        self._tell(msgspec.json.encode(PartEnded(role, code)))

    def wait_for_all(self, grace_s: float) -> None:
        """Wait until every process has ended by itself; what is left after `grace_s` is killed."""
        for pid in self._pids.values():
            os.kill(pid, signal.SIGCONT)  # one that is stopped would never end
        deadline = clock.monotonic() + grace_s
        while self._pids and (left_s := deadline - clock.monotonic()) > 0:
            if select.select([self._wake_reader], [], [], left_s)[0]:
                self._wake_reader.recv(4096)
                self._reap()
        for role, pid in self._pids.items():
            self._signal(role, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._reap()


def main() -> int:
    """Serve forks; in each forked process, run its part and return its exit code."""
    orders = inherited_socket(int(sys.argv[1]))
    with lasting_imports():  # what more than one of them needs, and what the launcher waits for
        from torchrelay.shared.wire import codec, sockets  # noqa: F401
        from torchrelay.worker.node import launcher_handle  # noqa: F401
    server = PartForkServer(orders)
    role = server.serve()
    if role is None:
        # They end by themselves when their launches' pipes close.
        server.wait_for_all(child.ORPHAN_GRACE_S + END_S)
        return 0
    return child.main(role)


if __name__ == "__main__":
    sys.exit(main())
