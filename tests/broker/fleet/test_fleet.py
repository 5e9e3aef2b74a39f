"""The fleet: what a version lacks, in words; placing and restarts have modules of their own."""

from tests.broker.rig import CLAIMS, CPU, NODE
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.placement import Placement
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.wire import messages as m


class CountingFleet(Fleet):
    """Counts how often the free places of the whole fleet are gathered."""

    gathered = 0
    _seen: Placement | None = None

    def free_places(self) -> Placement:
        places = super().free_places()
        self.gathered += places is not self._seen
        self._seen = places
        return places


def fleet() -> CountingFleet:
    made = CountingFleet(epoch=1, claims=CLAIMS, awaited=(), settle_until=0.0)
    made.add_node(NODE, m.HelloNode(m.PROTOCOL_VERSION, "n", (CPU,), 1, ()), 0.0)
    return made


def record(number: int) -> VersionRecord:
    return VersionRecord(f"m-{number}", "1.0", "m.mar", "sha", 1, "handler", "python", 1, 1, 1, 100, 120, 120,
                         loaded_at_startup=False)  # fmt: skip


def test_what_many_versions_lack_is_explained_by_one_look_at_the_free_places() -> None:
    all_of_them = fleet()
    records = {(f"m-{number}", "1.0"): record(number) for number in range(100)}
    start, _ = all_of_them.reconcile(records, 1.0)
    assert len(start) == 1
    all_of_them.gathered = 0
    texts = [all_of_them.explain(one, 2.0) for one in records.values()]
    assert texts[0] == "wants 1, has 0, 1 starting"
    assert set(texts[1:]) == {
        "wants 1, has 0, all 1 slots of the fleet are taken; add a node or raise --slots"
    }
    assert all_of_them.gathered == 1
    all_of_them.explain(records["m-1", "1.0"], 3.0)
    all_of_them.reconcile(records, 4.0)
    assert all_of_them.gathered == 1, "nothing has changed since"


def test_a_change_of_what_is_there_or_wanted_is_to_be_reconciled_and_nothing_else_is() -> None:
    one = fleet()
    one.reconcile({("m-0", "1.0"): record(0)}, 1.0)
    assert not one.must_reconcile
    one.explain(record(0), 1.0)
    assert not one.must_reconcile
    one.forgive(("m-0", "1.0"))
    assert one.must_reconcile
    one.reconcile({}, 2.0)
    one.remove_node(NODE)
    assert one.must_reconcile


def test_of_a_thousand_nodes_that_are_awaited_a_few_are_named() -> None:
    names = [f"n-{number:03}-{'x' * 190}" for number in range(1000)]
    settling = Fleet(epoch=2, claims=CLAIMS, awaited=names, settle_until=10.0)
    text = settling.explain(record(0), 1.0)
    assert f"waiting for nodes {names[0]}, {names[1]}, {names[2]} and 997 more to come back" in text
