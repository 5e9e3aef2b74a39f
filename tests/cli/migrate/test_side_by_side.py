"""What pairs of answers come to, in bounded memory."""

import pytest

from torchrelay.cli.migrate import side_by_side
from torchrelay.cli.migrate.answer_differences import ServerAnswer, Tolerance
from torchrelay.cli.migrate.replayed_request import ReplayedRequest
from torchrelay.cli.migrate.request_files import LeftOut
from torchrelay.cli.migrate.side_by_side import SideBySide


def request(path: str = "/predictions/m") -> ReplayedRequest:
    return ReplayedRequest(api="inference", method="POST", path=path, source="x:1")


def test_requests_are_counted_by_method_and_path() -> None:
    into = SideBySide("old", "new", Tolerance())
    for status in (200, 200, 500, 400):
        into.add(
            request("/predictions/m?a=1"),
            ServerAnswer(status=200, seconds=0.01),
            ServerAnswer(status=status, seconds=0.02),
        )
    into.leave_out(LeftOut("x:2", "why"))
    report = into.report()
    [label] = report.requests
    assert (label.request, label.sent, label.differing, report.left_out) == ("POST /predictions/m", 4, 2, 1)
    assert (label.old_ms.p50, label.new_ms.p99) == (10.0, 20.0)
    assert [example.times for example in label.examples] == [1, 1]


def test_what_differs_in_the_same_way_is_one_example() -> None:
    into = SideBySide("old", "new", Tolerance())
    for _ in range(50):
        into.add(request(), ServerAnswer(status=200), ServerAnswer(status=500))
    assert [example.times for example in into.report().requests[0].examples] == [50]


def test_endless_paths_and_times_take_no_endless_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "LABELS_LIMIT", 3)
    monkeypatch.setattr(side_by_side, "TIMES_LIMIT", 4)
    into = SideBySide("old", "new", Tolerance())
    for number in range(20):
        into.add(
            request(f"/{number}"), ServerAnswer(seconds=number), ServerAnswer(status=number, seconds=number)
        )
        into.leave_out(LeftOut(str(number), ""))
    report = into.report()
    assert [label.request for label in report.requests] == ["POST /0", "POST /1", "POST /2", "others"]
    assert report.requests[-1].sent == 17
    assert report.requests[-1].old_ms.p99 == 19_000
    assert len(report.requests[-1].examples) == side_by_side.EXAMPLES_LIMIT


def test_percentiles_are_those_of_what_was_measured() -> None:
    found = side_by_side.latencies([n / 1000 for n in range(1, 101)])
    assert (found.p50, found.p95, found.p99) == (50.0, 95.0, 99.0)
    assert side_by_side.latencies([]).p50 == 0.0
