"""Requests that come by themselves: when, from whom, and how they are counted."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import arrivals, arrivals_report, batch_timed_handler
from benchmarks.arrivals import Arrivals, OfferedLoad
from benchmarks.results import ArrivalPlan
from torchrelay.shared import clock


def test_a_run_without_options_is_the_one_that_is_published_and_no_other_is() -> None:
    assert arrivals.plan_of(arrivals.parse([])) == ArrivalPlan()
    assert arrivals.file_of(arrivals.parse([])) == arrivals_report.RESULTS
    for words in (["--quick"], ["--rounds", "1"], ["--delays-ms", "5"], ["--without-torchserve"]):
        assert arrivals.file_of(arrivals.parse(words)) == arrivals.PART
    assert arrivals.file_of(arrivals.parse(["--quick", "--results", "x.json"])) == Path("x.json")
    assert arrivals.plan_of(arrivals.parse(["--delays-ms", "5", "--clients"])).clients == ()


def test_it_takes_less_than_eight_minutes() -> None:
    plan = ArrivalPlan()
    runs = len(arrivals.loads(plan)) * len(plan.delays_ms) * plan.rounds * 2
    assert runs * (plan.seconds + plan.settling_s + 0.2) + 60 < 8 * 60


def test_requests_come_at_the_same_times_to_each_server_and_as_many_as_asked_for() -> None:
    times = arrivals.due_s(200, 30, seed=3)
    assert times == arrivals.due_s(200, 30, seed=3) != arrivals.due_s(200, 30, seed=4)
    assert times == sorted(times)
    assert times[-1] < 30
    assert len(times) == pytest.approx(6000, rel=0.05)
    assert arrivals.full_rate(ArrivalPlan()) == pytest.approx(800)


def test_percentiles_are_of_what_was_seen() -> None:
    assert arrivals.percentile([], 99) == 0
    assert arrivals.percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert arrivals.percentile(list(map(float, range(1000))), 99) == 990.0


def test_the_archive_tells_the_handler_how_long_its_batches_take(tmp_path: Path) -> None:
    context = SimpleNamespace(system_properties={"model_dir": str(tmp_path)})
    (tmp_path / "times_s").write_text("0.01 0.005\n")
    assert batch_timed_handler.handle(None, context) == []
    began = clock.monotonic()
    assert batch_timed_handler.handle([{"body": b"a"}, {"body": b"b"}], context) == [b"a", b"b"]
    assert clock.monotonic() - began >= 0.02
    assert (arrivals.make_store(tmp_path, ArrivalPlan()) / "echo.mar").exists()
    assert (tmp_path / "times_s").read_text() == "0.004 0.001\n"


class Echo(asyncio.Protocol):
    """Answers each request with its body, but for the fifth."""

    answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        Echo.answered += 1
        body = data.partition(b"\r\n\r\n")[2] if Echo.answered != 5 else b"another's!!!"
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@pytest.mark.parametrize("load", [OfferedLoad(percent=10), OfferedLoad(clients=2)])
async def test_an_answer_counts_if_it_was_asked_for_in_the_time_and_is_right(load: OfferedLoad) -> None:
    Echo.answered = 0
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    begins_at = clock.monotonic()
    seconds = 0.3 if load.percent else 0.05
    run = Arrivals(host, port, "m", begins_at, begins_at + seconds)
    if load.percent:
        # The last comes too late to count, whoever is busy.
        await run.by_themselves([0.0] * 9 + [0.4], begins_at)
        assert run.asked == 9
        assert len(run.late_us) == 9
    else:
        await run.by_clients(load.clients)
        assert run.asked >= 5
    assert len(run.took_us) == run.asked - 1, "one answer was another's"
    assert all(us > 0 for us in run.took_us)
    server.close()
