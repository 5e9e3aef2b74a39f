"""What of a workflow's archive runs."""

from pathlib import Path

import pytest

from tests.cli.migrate.archives import write_workflow
from torchrelay.cli.migrate import check_workflow
from torchrelay.cli.migrate.findings import Finding
from torchrelay.cli.migrate.surroundings import Surroundings
from torchrelay.shared.archives import archive_survey, workflow_archive
from torchrelay.shared.torchserve.config_keys import ConfigValues


def judged(folder: Path, functions: str | None, around: Surroundings) -> list[Finding]:
    path = write_workflow(folder / "flow.war", functions)
    return check_workflow.judge(workflow_archive.inspect(path), archive_survey.survey(path), around)


def test_its_steps_are_named_and_how_it_is_switched_on(tmp_path: Path) -> None:
    [found] = judged(tmp_path, "def f(data, context): ...", Surroundings())
    assert (found.level, found.what.partition(";")[0]) == ("differs", "workflow w: m, f()")
    is_on = Surroundings(config=ConfigValues(enable_workflow_api=True))
    [found] = judged(tmp_path, "def f(data, context): ...", is_on)
    assert (found.level, found.what) == ("same", "workflow w: m, f()")


@pytest.mark.parametrize(
    ("functions", "inside"),
    [
        (None, ""),
        ("def g(): ...", "h.py"),
        ("print 'x'", "h.py"),
        ("import nothing\ndef f(d, c): ...", "h.py"),
    ],
)
def test_functions_that_cant_be_called_are_found(tmp_path: Path, functions: str | None, inside: str) -> None:
    found = judged(tmp_path, functions, Surroundings(has_package=lambda _: False))
    assert [(one.level, one.inside) for one in found[1:]] == [("fails", inside)]


@pytest.mark.parametrize("functions", ["from own import f", "from own import *", "f = object()"])
def test_functions_may_come_from_elsewhere(tmp_path: Path, functions: str) -> None:
    assert len(judged(tmp_path, functions, Surroundings())) == 1
