"""Judges the archive of a workflow: its steps, and the functions that are steps. Pure."""

from collections.abc import Iterator

from torchrelay.cli.migrate import check_imports
from torchrelay.cli.migrate.findings import SWITCH_WORKFLOWS_ON, WORKFLOWS_ARE_OFF, Finding
from torchrelay.cli.migrate.surroundings import Surroundings
from torchrelay.shared.archives.archive_survey import Survey
from torchrelay.shared.archives.model_archive import handler_module
from torchrelay.shared.archives.workflow_archive import WorkflowInfo


def judge(info: WorkflowInfo, survey: Survey, around: Surroundings) -> list[Finding]:
    """Say what of a workflow runs; `survey` is what its files say."""
    steps = ", ".join(f"{step.name}{'()' if step.is_function else ''}" for step in info.spec.steps)
    what = f"workflow {info.name}: {steps}"
    if around.config.enable_workflow_api:
        found = [Finding("same", what)]
    else:
        found = [Finding("differs", f"{what}; {WORKFLOWS_ARE_OFF}", SWITCH_WORKFLOWS_ON)]
    return [*found, *_functions(info, survey), *check_imports.judge(survey, around)]


def _functions(info: WorkflowInfo, survey: Survey) -> Iterator[Finding]:
    wanted = [step.name for step in info.spec.steps if step.is_function]
    if not wanted:
        return
    name = f"{handler_module(info.handler)}.py"
    source = next((source for source in survey.sources if source.name == name), None)
    if source is None:
        yield Finding("fails", f"the file of its functions, {name}, is not in the archive")
    elif source.facts.fault:
        what = f"Python can't read it: {source.facts.fault}"
        yield Finding("fails", what, line=source.facts.fault_line, inside=name)
    else:
        imported = {name for one in source.facts.imports for name in one.names}
        for function in wanted:
            if function not in source.facts.functions and not {function, "*"} & imported:
                yield Finding("fails", f"it has no function {function}, which is a step", inside=name)
