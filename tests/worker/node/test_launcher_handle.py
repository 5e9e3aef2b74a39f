"""The node's end of a launcher that this test plays."""

import os
import socket
from collections.abc import Iterator

import msgspec
import psutil
import pytest

from tests.worker.models import start_worker
from torchrelay.shared import clock
from torchrelay.shared.wire.redial_policy import BrokerPlace
from torchrelay.worker.launcher import launcher_protocol as protocol
from torchrelay.worker.node.launcher_handle import ANSWER_LIMIT_S, FIRST_ANSWER_LIMIT_S, Launcher


class Played:
    """A launcher that obeys when it is told to."""

    def __init__(self) -> None:
        self.handle = Launcher(self._start)

    def _start(self, _ours: socket.socket, theirs: socket.socket) -> psutil.Process:
        self.socket = theirs.dup()
        return psutil.Popen(["true"])

    def order(self, worker_id: int) -> None:
        start = msgspec.structs.replace(start_worker(), worker_id=worker_id)
        spec = protocol.WorkerSpec(start, "n", BrokerPlace(("tcp://127.0.0.1:1",)), "/", 1)
        pipe = os.pipe()
        self.handle.fork(spec, *pipe, pipe[1])
        for fd in pipe:
            os.close(fd)

    def obeys(self, worker_id: int) -> None:
        self.socket.send(msgspec.json.encode(protocol.Forked(worker_id, 4000 + worker_id)))

    def hangs(self, after_s: float) -> bool:
        return self.handle.hangs(clock.monotonic() + after_s)


@pytest.fixture
def launcher() -> Iterator[Played]:
    played = Played()
    yield played
    played.socket.close()
    assert played.handle.close(60) == 0


def test_a_launcher_may_take_long_to_its_first_answer_while_it_imports_torch(launcher: Played) -> None:
    launcher.order(1)
    assert not launcher.hangs(FIRST_ANSWER_LIMIT_S - 1)
    assert launcher.hangs(FIRST_ANSWER_LIMIT_S + 1)


def test_a_launcher_without_orders_never_hangs(launcher: Played) -> None:
    launcher.order(1)
    launcher.obeys(1)
    launcher.handle.report()
    assert not launcher.hangs(1e6)


def test_of_many_orders_the_last_may_wait_for_long_as_long_as_others_are_obeyed(launcher: Played) -> None:
    for worker_id in range(1, 4):
        launcher.order(worker_id)
    # As if they were given long ago: each answer comes shortly before the limit.
    ordered = launcher.handle._ordered
    for key in ordered:
        ordered[key] -= 3 * ANSWER_LIMIT_S
    launcher.obeys(1)
    launcher.handle.report()
    assert not launcher.hangs(ANSWER_LIMIT_S - 1)
    assert launcher.hangs(ANSWER_LIMIT_S + 1)


def test_a_report_that_waits_to_be_read_is_an_answer(launcher: Played) -> None:
    launcher.order(1)
    launcher.obeys(1)
    assert not launcher.hangs(FIRST_ANSWER_LIMIT_S + 1)
