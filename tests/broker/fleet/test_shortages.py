"""What is said of a worker without a place: every word of it is true, and there are few of them."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.broker.fleet.fleets import (
    GIB,
    drawn_fleets,
    drawn_records,
    empty_fleet,
    gpu,
    join,
    places,
    record,
    something_happens,
    wish,
)
from torchrelay.broker.fleet import device_memory
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.nodes import FleetNode
from torchrelay.broker.fleet.shortages import NODES_SHOWN, Need, Shortage, Shortages, amount
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.archives.model_config import ModelConfig


def test_the_arithmetic_is_told_of_the_nodes_that_lack_least() -> None:
    fleet = empty_fleet()
    join(fleet, "rack3", gpu(0), labels={"zone": "a"}, in_use={0: 17.8})
    join(fleet, "rack4", gpu(0))
    join(fleet, "rack5", gpu(0, 80), labels={"zone": "a"}, slots=0)
    wanted = record(ModelConfig(placement=wish(9.1, zone="a")))
    assert places(fleet, wanted) == []
    assert fleet.explain(wanted, 1.0) == (
        "wants 1, has 0, no node has a place: needs 9.1 GiB and the label zone=a;"
        " cuda:0 of rack3 has 6.2 GiB free of 24; all 0 slots of rack5 are taken;"
        " rack4 lacks the label zone=a; add a node with that, or ask for less in `placement` of the"
        " archive's model-config.yaml"
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ModelConfig(placement=wish(9)), "needs 9 GiB; cuda:1 of n-1 has 4 GiB free of 8; cpu of n-2"),
        (ModelConfig(device_type="gpu", placement=wish(9)),
         "needs 9 GiB; cuda:1 of n-1 has 4 GiB free of 8; n-2 has no GPU;"),
        (ModelConfig(device_ids=(7,), placement=wish(9)),
         "needs a GPU of deviceIds [7] and 9 GiB; n-1 has no GPU of these ids; n-2 has no GPU of these ids;"),
        (ModelConfig(parallel_type="tp", parallel_level=3, placement=wish()),
         "needs 3 GPUs; n-1 has 2 GPUs; n-2 has no GPU;"),
        (ModelConfig(placement=wish(a="1", b="2", c="3", d="4")),
         "needs the labels a=1, b=2, c=3 and 1 more; n-1 lacks the labels a=1, b=2, c=3 and 1 more;"),
    ],
)  # fmt: skip
def test_each_kind_of_shortage_has_its_words(config: ModelConfig, words: str) -> None:
    fleet = empty_fleet()
    join(fleet, "n-1", gpu(0, 8), gpu(1, 8), in_use={0: 6, 1: 4})
    join(fleet, "n-2")
    assert f"no node has a place: {words}" in fleet.explain(record(config), 1.0)


@pytest.mark.parametrize(
    ("size", "like", "up", "expected"),
    [
        (9 * GIB, 9 * GIB, True, "9 GiB"),
        (9 * GIB + 1, 9 * GIB, True, "9.1 GiB"),
        (9 * GIB - 1, 9 * GIB, False, "8.9 GiB"),
        (100 << 20, 500 << 20, False, "100 MiB"),
        (1, 1, True, "0.1 KiB"),
        (-5, GIB, False, "0 GiB"),
    ],
)
def test_sizes_are_written_so_that_what_does_not_fit_does_not_seem_to(
    size: int, like: int, up: bool, expected: str
) -> None:
    assert amount(size, like, up=up) == expected


@given(st.integers(1, 1 << 50), st.integers(1, 1 << 50))
def test_what_is_needed_is_never_written_as_less_than_what_is_free(one: int, other: int) -> None:
    free, need = sorted((one, other))
    if free == need:
        return
    (needed, unit), (there, same) = amount(need, need, up=True).split(), amount(free, need).split()
    assert unit == same
    assert float(needed) > float(there)


def test_a_fleet_of_a_thousand_nodes_is_told_in_a_few_lines() -> None:
    need = Need(9 * GIB, tuple((f"label-{'x' * 50}-{n}", "v" * 63) for n in range(32)), False, "", (), 1)
    lacking = [Shortage("n" * 200, "labels", labels=need.labels) for _ in range(1000)]
    words = Shortages.gather(need, lacking).words()
    assert len(words) < 2500
    assert "of 997 more nodes 997 not the labels" in words


@given(st.data())
def test_every_refusal_names_true_shortages_and_counts_every_node(data: st.DataObject) -> None:
    fleet, records = data.draw(drawn_fleets()), data.draw(drawn_records())
    for now in range(1, data.draw(st.integers(2, 6))):
        something_happens(fleet, data.draw, now)
        fleet.reconcile(records, now)
        for one in records.values():
            text = fleet.explain(one, now)
            if len(fleet.live(one.key)) < one.min_workers:
                assert "no node has a place" in text
                _check_words(fleet, one, text)
            else:
                assert "no node has a place" not in text


def _check_words(fleet: Fleet, one: VersionRecord, text: str) -> None:
    """Compare what is said with what is so, clause by clause."""
    nodes = {node.name: node for node in fleet.nodes.values()}
    counts = Counter(_lacks(fleet, node, one) for node in nodes.values())
    assert counts[""] == 0, "a node has a place"
    clauses = re.fullmatch(r".*: needs [^;]*; (.*); add a node.*", text)
    assert clauses
    shown = set()
    for clause in clauses[1].split("; "):
        if more := re.fullmatch(r"of (\d+) more nodes? .*", clause):
            assert int(more[1]) == len(nodes) - NODES_SHOWN
            assert sum(map(int, re.findall(r"(\d+) (?:too|no)", clause))) == int(more[1])
            continue
        name = re.search(r"n-\d", clause)
        assert name
        node = nodes[name[0]]
        shown.add(node.name)
        what = _lacks(fleet, node, one)
        if what == "labels":
            said = set(re.findall(r"(\w+)=(\w+)", clause))
            assert said == set(one.config.placement.labels if one.config.placement else ()) - node.labels
        elif what == "memory":
            _check_memory(fleet, node, clause)
        elif what == "slots":
            assert clause == f"all {node.slots} slots of {node.name} are taken"
        else:
            assert re.fullmatch(rf"{node.name} has (no|1|2) GPUs?( of these ids)?", clause)
    assert len(shown) == min(NODES_SHOWN, len(nodes))


def _check_memory(fleet: Fleet, node: FleetNode, clause: str) -> None:
    if match := re.fullmatch(r"(\S+) of \S+ doesn't tell how much memory it has", clause):
        assert device_memory.total(node, match[1]) == 0
        return
    match = re.fullmatch(r"(\S+) of \S+ has ([\d.]+) GiB free of ([\d.]+)", clause)
    assert match, clause
    total = device_memory.total(node, match[1])
    free = max(0, total - fleet.taken_bytes(node)[match[1]])
    assert (float(match[2]), float(match[3])) == (free / GIB, total / GIB), "all are whole here"


def _lacks(fleet: Fleet, node: FleetNode, one: VersionRecord) -> str:
    """Say what a node lacks, found in another way than by the code under test."""
    config, placement = one.config, one.config.placement
    assert placement
    if not set(placement.labels) <= node.labels:
        return "labels"
    has_gpus = any(device.kind == "gpu" for other in fleet.nodes.values() for device in other.devices)
    wants_gpus = config.device_type == "gpu" or config.device_ids or config.parallel_level
    names, count = [device.name for device in node.devices] or ["cpu"], 1
    if config.device_type == "cpu":
        names = ["cpu"]
    elif has_gpus and wants_gpus:
        ids = config.device_ids or range(99)
        names = [device.name for device in node.devices if device.name in {f"cuda:{n}" for n in ids}]
        count = config.parallel_level or 1
    if len(names) < count:
        return "devices"
    if len(fleet.of_node(node.peer)) >= node.slots:
        return "slots"
    taken = fleet.taken_bytes(node)
    room = [name for name in names if device_memory.total(node, name) - taken[name] >= placement.memory_bytes]
    return "" if len(room) >= count or not placement.memory_bytes else "memory"
