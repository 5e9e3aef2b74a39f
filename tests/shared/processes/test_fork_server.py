"""The loop of a fork server, in a process of its own that forks one for each packet."""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.integration

SERVER = """
import os, signal, sys
from torchrelay.shared.processes.fork_server import ForkServer, inherited_socket

class Counting(ForkServer[tuple[bytes, int]]):
    packet_limit_bytes, fds_per_packet = 100, 1
    pids = set()

    def _obey(self, packet, fds):
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            self._be_forked(parent)
            return packet, fds[0]
        self.pids.add(pid)
        os.close(fds[0])

    def _reap(self):
        for pid in list(self.pids):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.pids.remove(pid)
                self._orders.send(b"%d" % os.waitstatus_to_exitcode(status))

work = Counting(inherited_socket(int(sys.argv[1]))).serve()
if work is None:
    os._exit(0)
packet, fd = work
os.write(fd, packet)
if packet != b"stay":
    os._exit(len(packet))
signal.pause()
"""


@pytest.fixture
def server() -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(60)
    with ours:
        command = [sys.executable, "-P", "-c", SERVER, str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
            theirs.close()
            yield ours, process
            process.kill()


def order(orders: socket.socket, packet: bytes) -> int:
    """Have a process forked; return the fd of what it writes."""
    reads, writes = os.pipe()
    socket.send_fds(orders, [packet], [writes])
    os.close(writes)
    return reads


def test_each_order_has_a_process_of_its_own_and_each_end_is_noticed(
    server: tuple[socket.socket, subprocess.Popen[bytes]],
) -> None:
    orders, _ = server
    for packet in (b"a", b"bc"):
        with open(order(orders, packet), "rb") as said:
            assert said.read() == packet
        assert orders.recv(100) == b"%d" % len(packet)


def test_a_server_whose_last_report_nobody_has_read_ends_as_well(
    server: tuple[socket.socket, subprocess.Popen[bytes]],
) -> None:
    orders, process = server
    os.close(order(orders, b"a"))
    assert select.select([orders], [], [], 60)[0]
    orders.close()
    assert process.wait(60) == 0


def test_when_the_other_end_is_closed_the_server_ends_and_all_that_it_forked(
    server: tuple[socket.socket, subprocess.Popen[bytes]],
) -> None:
    orders, process = server
    with open(order(orders, b"stay"), "rb") as said:
        assert said.read(4) == b"stay"
        orders.close()
        assert process.wait(60) == 0
        assert said.read() == b""  # by its death the last holder of the pipe let go
