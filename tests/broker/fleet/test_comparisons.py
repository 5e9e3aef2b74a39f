"""Which versions a turn compares; that none is forgotten, the invariants of all stateful tests say."""

from tests.broker.fleet.fleets import empty_fleet, join, record
from torchrelay.broker.core.states import WorkerState
from torchrelay.broker.fleet.comparisons import COMPARED_PER_SWEEP, COMPARED_PER_TURN, Comparisons
from torchrelay.broker.fleet.fleet import CHANGES_PER_TURN, LOOKS_PER_TURN
from torchrelay.broker.models.catalog import Key
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.archives.model_config import ModelConfig

KEYS: list[Key] = [(f"m-{number}", "1.0") for number in range(2 * COMPARED_PER_TURN)]


def settled(keys: list[Key]) -> Comparisons:
    comparisons = Comparisons(lambda: keys)
    while comparisons.is_due:
        comparisons.take()
    return comparisons


def test_at_first_all_are_compared_over_some_turns() -> None:
    comparisons = Comparisons(lambda: KEYS)
    assert comparisons.take() == KEYS[:COMPARED_PER_TURN]
    assert comparisons.is_due
    assert comparisons.take() == KEYS[COMPARED_PER_TURN:]
    assert not comparisons.is_due


def test_what_was_noted_is_compared_once() -> None:
    comparisons = settled(KEYS)
    comparisons.note(KEYS[7])
    comparisons.note(KEYS[7])
    assert comparisons.is_noted(KEYS[7])
    assert not comparisons.is_noted(KEYS[8])
    assert comparisons.take() == [KEYS[7]]
    assert comparisons.take() == []


def test_what_is_unsettled_is_compared_at_the_next_sweep_with_some_of_all_others() -> None:
    comparisons = settled(KEYS)
    comparisons.note_unsettled(KEYS[-1])
    assert not comparisons.is_due
    comparisons.sweep()
    assert comparisons.take() == [KEYS[-1], *KEYS[:COMPARED_PER_SWEEP]]
    comparisons.sweep()
    assert comparisons.take() == KEYS[COMPARED_PER_SWEEP : 2 * COMPARED_PER_SWEEP]


def test_a_turn_starts_and_stops_a_bounded_number_of_workers_and_the_next_ones_go_on() -> None:
    fleet = empty_fleet()
    wanted: dict[Key, VersionRecord] = {}
    count = 2 * CHANGES_PER_TURN + 10
    one = record(ModelConfig(), count)
    wanted[one.key] = one
    join(fleet, "n", slots=2 * count)
    turns: list[object] = []
    while fleet.must_reconcile:
        turns.append(len(fleet.reconcile_some(wanted, 1.0).start))
    assert turns == [CHANGES_PER_TURN, CHANGES_PER_TURN, 10]
    wanted[one.key] = record(ModelConfig(), 5)
    fleet.compare(one.key)
    stopped: list[int] = []
    while fleet.must_reconcile:
        orders = fleet.reconcile_some(wanted, 2.0)
        for worker in orders.stop:
            worker.move(WorkerState.STOPPING, 2.0)
        stopped.append(len(orders.stop))
    assert stopped == [CHANGES_PER_TURN, CHANGES_PER_TURN, 5]
    wanted.clear()
    fleet.compare(one.key)
    assert len(fleet.reconcile_some(wanted, 3.0).stop) == 5


def test_versions_without_a_place_are_looked_at_a_bounded_number_at_a_time() -> None:
    fleet = empty_fleet()
    records = [record(ModelConfig(), model=f"m-{number}") for number in range(2 * LOOKS_PER_TURN)]
    wanted = {one.key: one for one in records}
    join(fleet, "n", slots=1)
    turns: list[object] = []
    while fleet.must_reconcile:
        orders = fleet.reconcile_some(wanted, 1.0)
        turns.append((len(orders.start), len(orders.done)))
    assert turns == [(1, LOOKS_PER_TURN), (0, LOOKS_PER_TURN)]
