"""Judges what handlers import: of TorchServe's package `ts`, of Python, and of other packages. Pure."""

import re
import sys
from collections.abc import Iterator

from torchrelay.cli.migrate import provided_modules
from torchrelay.cli.migrate.findings import Finding, Level
from torchrelay.cli.migrate.surroundings import GONE_FROM_PYTHON, Surroundings, advice_for, modules_of
from torchrelay.shared.archives import model_archive
from torchrelay.shared.archives.archive_survey import Survey
from torchrelay.shared.archives.model_archive import DEFAULT_HANDLERS
from torchrelay.shared.archives.python_facts import Import, ImportTime

_LEVEL: dict[ImportTime, Level] = {"loading": "fails", "calling": "differs", "perhaps": "same"}
#: pip replaces ${NAME} in a requirements file.
_REFERENCE = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)\}")


def judge(survey: Survey, around: Surroundings) -> list[Finding]:
    """Say what of the imports of an archive isn't there."""
    required = modules_of(survey.requirements)
    found = [*_requirements(survey, around)]
    handler = model_archive.handler_module(survey.info.manifest.handler or "")
    if handler in DEFAULT_HANDLERS:
        found += _needs_of_ours(f"ts.torch_handler.{handler}", around, inside="", line=0)
    for source in survey.sources:
        for one in source.facts.imports:
            top = one.module.partition(".")[0]
            if top in survey.own_modules or one.time == "perhaps":
                continue
            if top == "ts":
                found += _of_ts(one, source.name, around)
            elif top in GONE_FROM_PYTHON or not (_is_there(top, around) or top in required):
                found.append(_missing(top, one, source.name, is_there=top in sys.stdlib_module_names))
    return found


def _is_there(module: str, around: Surroundings) -> bool:
    return module in sys.stdlib_module_names or module == "torchrelay" or around.has_package(module)


def _missing(module: str, one: Import, inside: str, *, is_there: bool) -> Finding:
    if module in GONE_FROM_PYTHON:
        what = f"imports {module}, which Python {GONE_FROM_PYTHON[module]} and later don't have"
        return Finding("differs" if is_there else _LEVEL[one.time], what, "replace it", one.line, inside)
    what = f"imports {module}, which isn't installed here"
    return Finding(_LEVEL[one.time], what, advice_for(module), one.line, inside)


def _of_ts(one: Import, inside: str, around: Surroundings) -> Iterator[Finding]:
    names = provided_modules.names_of(one.module)
    if names is None:
        missing = [one.module]
    else:
        missing = [f"{one.module}.{name}" for name in one.names if name != "*" and name not in names]
        yield from _needs_of_ours(one.module, around, inside=inside, line=one.line)
    for name in missing:
        what = f"imports {name}, which isn't part of our `ts`"
        yield Finding(
            _LEVEL[one.time], what, "docs/compatibility.md says what is, under Python API", one.line, inside
        )


def _needs_of_ours(module: str, around: Surroundings, *, inside: str, line: int) -> Iterator[Finding]:
    """Say which packages a module that comes with the server needs, and that aren't there."""
    for package in provided_modules.packages_of(module):
        if not _is_there(package, around):
            what = f"{module.rpartition('.')[2]} needs {package}, which isn't installed here"
            yield Finding("fails", what, advice_for(package), line, inside)


def _requirements(survey: Survey, around: Surroundings) -> Iterator[Finding]:
    file = survey.info.manifest.requirements_file
    if not file or not survey.requirements.strip():
        return
    if not around.config.install_py_dep_per_model and not (
        survey.info.server_config and survey.info.server_config.use_venv
    ):
        what = "is installed, as in TorchServe, with install_py_dep_per_model=true alone"
        yield Finding("same", what, inside=file)
    for name in sorted(set(_REFERENCE.findall(survey.requirements))):
        what = f"names the variable {name}, which pip doesn't see here by itself"
        yield Finding(
            "differs", what, f"install_env_vars={name} in config.properties lets it see it", inside=file
        )
