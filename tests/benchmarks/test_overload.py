"""An overloaded server, small enough for a test: nothing is timed here, but all that must hold holds."""

import asyncio
from pathlib import Path

import pytest

from benchmarks import overload
from benchmarks.overload import Figures, OverloadPlan, TimedClient


@pytest.mark.integration
def test_what_waits_is_answered_the_surplus_refused_and_the_place_of_who_leaves_is_anothers(
    tmp_path: Path,
) -> None:
    plan = OverloadPlan(requests=60, surplus=20, leavers=3, batch_size=4, gateway_processes=1)
    figures = overload.measure(tmp_path, plan)
    assert (figures.accepted, figures.answered, figures.wrong) == (68, 68, 0)
    assert len(figures.refusals_s) == 20
    assert len(figures.places_s) == 3
    # 15 batches of 0.2 s or a little more: the service rate is known.
    assert all(3 <= seconds <= 60 for seconds in figures.retry_after_s)
    assert list(figures.memory) == ["before", "while all wait", "after"]
    assert {"broker", "gateway process", "model worker"} <= set(figures.memory["after"])


async def test_an_answer_ends_with_its_body_however_it_comes() -> None:
    client = TimedClient(7)
    head = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 4\r\nContent-Length: 2\r\n\r\n"
    for byte in head + b"n":
        client.data_received(bytes([byte]))
    assert not client.ended.done()
    client.data_received(b"o")
    await client.ended
    assert (client.status, client.retry_after_s, client.is_own_answer) == (503, 4, False)


async def test_a_connection_that_ends_without_an_answer_has_none() -> None:
    client = TimedClient(7)
    client.connection_lost(None)
    await asyncio.wait_for(client.ended, 1)
    assert client.status == 0


def test_the_table_has_the_largest_process_of_each_kind_at_each_moment() -> None:
    figures = Figures(
        accepted=12_000, answered=12_000, refusals_s=[0.001] * 98 + [0.004, 0.05], retry_after_s={20, 21},
        places_s=[0.002], answered_in_s=20.04,
        memory={"before": {"broker": 50 << 20}, "after": {"broker": 61 << 20}},
    )  # fmt: skip
    table = overload.table(figures)
    assert "| broker | 50 | 61 |" in table
    assert "| accepted, answered, wrong answers | 12,000, 12,000, 0 |" in table
    assert "| 1.0, 4.0, 50.0 ms |" in table
    assert "| 20 to 21 s |" in table
