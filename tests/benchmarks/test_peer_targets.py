"""Whether a run shows what is wanted: hand-made figures whose ratios are known."""

import msgspec
import pytest

from benchmarks import peer_targets
from benchmarks.peer_targets import TARGETS, PeerTarget
from benchmarks.peers.rows import LOOP, ROWS, SERVERS
from benchmarks.results import PeerResults
from tests.benchmarks.test_peers_report import point, results

FASTER = PeerTarget("mosec", (), (1, 64), "rate", 1.5)


def test_the_worst_comes_first_and_each_is_the_median_of_its_rounds() -> None:
    made = results()
    points = [*made.points, *(point("encoder", server, 16, 0, rate) for server, rate in
                              (("torchrelay", 300), ("mosec", 200)))]  # fmt: skip
    made = msgspec.structs.replace(made, points=tuple(points))
    target = msgspec.structs.replace(FASTER, connections=(1, 16, 64))
    found = peer_targets.comparisons(made, target)
    assert [(one.row, one.connections, one.found) for one in found] == [
        ("encoder", 16, 1.5), ("echo-1", 1, 2.0), ("echo-1", 64, 2.0)
    ]  # fmt: skip
    assert all(one.is_met for one in found)


@pytest.mark.parametrize(
    ("target", "is_met"),
    [
        (FASTER, True),
        (msgspec.structs.replace(FASTER, bound=2.0), True),
        (msgspec.structs.replace(FASTER, bound=2.1), False),
        (msgspec.structs.replace(FASTER, what="p50", bound=1.0), True),
        (msgspec.structs.replace(FASTER, what="p50", bound=0.9), False),
    ],
)
def test_a_rate_is_to_be_at_least_and_a_latency_at_most(target: PeerTarget, is_met: bool) -> None:
    assert {one.is_met for one in peer_targets.comparisons(results(), target)} == {is_met}


def test_all_rows_are_those_by_http() -> None:
    made = results()
    renamed = tuple(msgspec.structs.replace(one, row="grpc-1") for one in made.points)
    rows = (msgspec.structs.replace(made.rows[0], key="grpc-1"),)
    made = msgspec.structs.replace(made, points=renamed, rows=rows)
    assert peer_targets.comparisons(made, msgspec.structs.replace(FASTER, rows=())) == []
    assert peer_targets.comparisons(made, msgspec.structs.replace(FASTER, rows=("grpc-1",)))


def test_what_was_not_measured_is_no_comparison() -> None:
    for target in (
        msgspec.structs.replace(FASTER, other="triton"),
        msgspec.structs.replace(FASTER, rows=("150k",)),
        msgspec.structs.replace(FASTER, connections=(256,)),
    ):
        assert peer_targets.comparisons(results(), target) == []
    none: PeerResults = msgspec.structs.replace(results(), points=())
    assert peer_targets.render(none) == ""


def test_the_table_says_what_is_missed_and_where() -> None:
    made = results()
    slow = tuple(
        msgspec.structs.replace(one, load=msgspec.structs.replace(one.load, requests=one.load.requests // 4))
        if one.server == "torchrelay" and one.connections == 64
        else one
        for one in made.points
    )
    written = peer_targets.render(msgspec.structs.replace(made, points=slow))
    (line,) = [line for line in written.splitlines() if "64 bytes" in line]
    assert line == (
        "| Mosec | 64 bytes; echo-1-4w (64, 256) | requests/s >= 1 | 0.50 (64 bytes, 64) | **no**: 1 of 1 |"
    )


def test_every_target_is_about_rows_and_servers_that_there_are() -> None:
    rows = {row.key: row for row in ROWS}
    for target in TARGETS:
        assert target.other in (*SERVERS, LOOP)
        for key in target.rows:
            assert target.other in rows[key].takes_part
            assert set(rows[key].connections) & set(target.connections)
