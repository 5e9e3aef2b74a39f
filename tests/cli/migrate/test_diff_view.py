"""How differences read on a terminal of 80 columns."""

from torchrelay.cli.migrate import diff_view
from torchrelay.cli.migrate.answer_differences import ServerAnswer, Tolerance
from torchrelay.cli.migrate.replayed_request import ReplayedRequest
from torchrelay.cli.migrate.request_files import LeftOut
from torchrelay.cli.migrate.side_by_side import SideBySide


def test_each_difference_is_shown_once_and_fits() -> None:
    into = SideBySide("old", "new", Tolerance())
    request = ReplayedRequest(
        api="inference", method="POST", path="/predictions/" + "m" * 90, source="run.sh:3"
    )
    for _ in range(3):
        into.add(
            request,
            ServerAnswer(status=200, seconds=1.25, headers=(("x", "y" * 90),)),
            ServerAnswer(status=503),
        )
    into.leave_out(LeftOut("run.sh:4", "only a shell knows " + "x " * 50))
    shown = [line for line, _ in diff_view.lines(into.report(was_interrupted=True), 80)]
    assert all(len(line) <= 80 for line in shown if "m" * 80 not in line)
    assert "  status: old 200, new 503" in shown
    assert any("(3 times)" in line for line in shown)
    assert any(line.startswith("not sent: run.sh:4") for line in shown)
    assert shown[-1] == "3 requests, 3 answered otherwise, 1 not sent; interrupted"
    [row] = diff_view.rows(into.report())
    assert row[1:] == ("3", "3", "1250/1250/1250", "0.0/0.0/0.0")
