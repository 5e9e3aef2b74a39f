"""When the broker looks for cycles among its objects, and why that may be seldom."""

import gc
from collections.abc import Iterator

import pytest

from tests.broker.rig import GATEWAY, NODE, Rig
from torchrelay.broker import collecting
from torchrelay.shared.wire import messages as m


@pytest.fixture
def collector() -> Iterator[None]:
    """Leave the collector as it was."""
    is_enabled = gc.isenabled()
    yield
    gc.unfreeze()
    (gc.enable if is_enabled else gc.disable)()


@pytest.mark.usefixtures("collector")
def test_the_core_makes_no_cycles_which_nobody_would_look_for() -> None:
    rig = Rig()
    for _ in range(3):  # libraries learn what they meet for the first time
        _live_and_lose_all(rig)
    gc.collect()
    gc.disable()
    _live_and_lose_all(rig)
    assert gc.collect() == 0


@pytest.mark.usefixtures("collector")
def test_looks_are_as_before_once_the_broker_has_ended() -> None:
    before = gc.get_threshold()
    with collecting.seldom():
        assert gc.get_threshold() == (
            collecting.AFTER_OBJECTS, collecting.AGAIN_AFTER, collecting.NEVER
        )  # fmt: skip
        assert gc.get_freeze_count()
    assert gc.get_threshold() == before


def test_everything_is_looked_at_once_an_hour_and_what_is_new_each_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[tuple[int, ...]] = []
    monkeypatch.setattr(gc, "collect", lambda *generation: looks.append(generation))
    collections = collecting.Collections(100.0)
    hour = collecting.INTERVAL_S
    for now in (100.9, 101.1, 101.2, 100.1 + hour, 100.2 + hour, 101.2 + hour, 100.2 + 2 * hour):
        collections.go_on(now)
    assert looks == [(1,), (), (1,), ()]


def _live_and_lose_all(rig: Rig) -> None:
    workers = rig.ready_rig(3, batch_size=2)
    rig.submit(1, 2, 3, 4)
    rig.complete(workers[0], rig.only(workers[0], m.Assign))
    rig.submit(5, model="unknown")
    rig.say(GATEWAY, m.Cancel((3,)))
    rig.say(GATEWAY, m.ReadMetrics(10))
    rig.say(GATEWAY, m.ReadFleet(11))
    rig.exit_worker(rig.core.workers.by_peer[workers[1]].worker_id)
    rig.pass_time(5)
    rig.lose_node(NODE)
    rig.pass_time(5)
    rig.say(GATEWAY, m.UnregisterModel(12, "m", None))
    rig.say(GATEWAY, m.Bye())
    rig.pass_time(1)
