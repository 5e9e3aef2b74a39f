"""Calls the echo handler in a plain loop: what its work costs without any server around it."""

from benchmarks.echo_handler import handle
from benchmarks.results import Loop
from benchmarks.servers import BODY
from torchrelay.shared import clock

CALLS_PER_LOOK = 1000


def measure(rows: int, seconds: float) -> Loop:
    """Call it with batches of `rows` for about `seconds`."""
    calls = 0
    started = clock.monotonic()
    while (elapsed := clock.monotonic() - started) < seconds or calls == 0:
        for _ in range(CALLS_PER_LOOK):
            answer = handle([{"body": bytearray(BODY)} for _ in range(rows)], None)
        calls += CALLS_PER_LOOK
    assert answer == [BODY] * rows
    return Loop(what="bare loop", jobs_per_call=rows, us_per_job=elapsed / calls / rows * 1e6)
