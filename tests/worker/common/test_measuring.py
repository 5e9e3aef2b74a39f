"""Metrics that handlers print, on their way to the broker."""

import asyncio

from tests.support import eventually_async
from torchrelay.shared.wire import messages as m
from torchrelay.worker.common.measuring import POINTS_LIMIT, PrintedMetrics

LINE = "[METRICS]Calls.Count:1|#Level:Model|#type:COUNTER|#hostname:h,1700000000"


async def test_printed_points_are_told_together_and_from_any_thread() -> None:
    told: list[m.Message] = []
    printed = PrintedMetrics(told.append)
    assert await asyncio.to_thread(lambda: [printed.take(line) for line in (LINE, "a line", LINE)]) == [
        True,
        False,
        True,
    ]
    await eventually_async(lambda: told)
    [measured] = told
    assert isinstance(measured, m.NodeMeasured)
    assert [point.name for point in measured.points] == ["Calls", "Calls"]


async def test_who_prints_more_points_than_the_broker_should_take_in_has_printed_lines() -> None:
    told: list[m.Message] = []
    printed = PrintedMetrics(told.append)
    taken = sum(printed.take(LINE) for _ in range(POINTS_LIMIT + 20_000))
    assert POINTS_LIMIT <= taken < POINTS_LIMIT + 20_000
    printed.flush()
    assert sum(len(each.points) for each in told if isinstance(each, m.NodeMeasured)) == taken
