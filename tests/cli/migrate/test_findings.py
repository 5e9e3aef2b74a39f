"""What was found in a file, put together."""

from torchrelay.cli.migrate import findings
from torchrelay.cli.migrate.findings import Finding


def test_the_worst_thing_that_was_found_is_the_verdict() -> None:
    assert findings.worst([]) == "same"
    found = [Finding("differs", "a"), Finding("fails", "b"), Finding("ignored", "c")]
    assert findings.worst(found) == "fails"
    assert findings.worst([found[2], found[0]]) == "differs"


def test_the_worst_stays_where_there_is_too_much() -> None:
    many = [Finding("same", "a", line=n) for n in range(1, 500)] + [Finding("fails", "b", line=600)]
    report = findings.file_report("x.sh", "script", many)
    assert (len(report.findings), report.verdict) == (findings.FINDINGS_LIMIT + 1, "fails")
    assert [one.line for one in report.findings if one.level == "fails"] == [600]


def test_verdicts_are_counted() -> None:
    files = [findings.file_report("a", "script", []), findings.file_report("b", "script", [])]
    assert findings.check_report(files).summary == {"same": 2, "ignored": 0, "differs": 0, "fails": 0}
