"""When jobs are sent: at once where few wait, together where many do."""

import pytest

from torchrelay.gateway.grpc import gathering_link
from torchrelay.gateway.grpc.gathering_link import CALLS_PER_MS, GatheringLink
from torchrelay.gateway.session import EARLY_JOBS, GatewaySession
from torchrelay.shared import clock
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages as m


@pytest.mark.parametrize(("waiting", "ms"), [(0, 0), (15, 0), (16, 1), (31, 1), (32, 2), (48, 3), (5000, 3)])
def test_a_job_waits_the_longer_the_more_wait_and_never_long(waiting: int, ms: int) -> None:
    assert gathering_link.delay_s(waiting) == pytest.approx(ms / 1000)


class Loop:
    """An event loop that notes what is to be done, and when."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    def call_soon(self, _callback: object) -> None:
        self.delays.append(0.0)

    def call_later(self, delay_s: float, _callback: object) -> None:
        self.delays.append(delay_s)


class Gathering(GatheringLink):
    """Flushes when it should, into nothing."""

    flushed = 0

    def _flush(self) -> None:
        self.flushed += 1
        list(self._session.outgoing(clock.monotonic()))
        self._is_flush_due = False


def test_one_timer_is_set_for_all_that_come_meanwhile_and_enough_of_them_go_at_once() -> None:
    config = GatewaySettings()
    link = Gathering(config)
    link._session = GatewaySession(config, name="test", pid=1, now=0.0)
    link._session.hear(m.Welcome(500, 3000), 5, (), now=clock.monotonic())
    link.loop = loop = Loop()  # type: ignore[assignment]  # has what is used of one
    for number in range(1, CALLS_PER_MS + EARLY_JOBS):
        link.submit("m", None, b"", ())
        if number == CALLS_PER_MS - 1:
            assert loop.delays == [0.0, 0.0]
            assert link.flushed == 1, "they are enough"
            link._flush()
    assert loop.delays == [0.0, 0.0, pytest.approx(0.001)]
    assert link.flushed == 3, "they are enough"
