"""How findings read on a terminal of 80 columns."""

from torchrelay.cli.migrate import check_view
from torchrelay.cli.migrate.findings import UNKNOWN_KIND, Finding, check_report, file_report


def test_findings_fit_the_width_and_lines_that_run_are_one_row() -> None:
    many = [Finding("same", "POST /models", line=n) for n in range(1, 30)]
    bad = Finding("fails", "a long sentence " * 10, "do something about it", 40)
    report = check_report([file_report("scripts/run.sh", "script", [*many, bad])])
    shown = [line for line, _ in check_view.lines(report, 80)]
    assert all(len(line) <= 80 for line in shown)
    assert shown[0] == "scripts/run.sh (script): will not run"
    assert shown[1].startswith("  same    as it is: lines 1, 2, 3,")
    assert shown[2].startswith("  fails   run.sh:40: a long sentence")
    assert any("-> do something" in line for line in shown)
    assert shown[-1] == "1 file: 1 will not run"


def test_a_file_without_anything_of_torchserves_is_said_and_not_counted() -> None:
    unknown = file_report("three.png", UNKNOWN_KIND, [Finding("ignored", "nothing")])
    judged = file_report("run.sh", "script", [])
    shown = [line for line, _ in check_view.lines(check_report([unknown, judged]), 80)]
    assert shown[0] == "three.png: nothing of TorchServe's was found in it"
    assert shown[-1] == "1 file: 1 unchanged"


def test_nothing_found_is_said() -> None:
    assert [line for line, _ in check_view.lines(check_report([]), 80)] == [
        "Nothing of TorchServe's was found."
    ]
