"""What a workflow's spec says: its steps, and which follows which. Pure; the format is TorchServe's.

A step is a model, with an archive of its own, or a function of the workflow's handler. The file is not
trusted: it is bounded before it is built, and whatever can't be meant is refused, with the place.
"""

from collections.abc import Mapping

import msgspec

from torchrelay.shared.archives import model_config
from torchrelay.shared.errors import InvalidDag, InvalidWorkflow
from torchrelay.shared.quoting import quoted

#: Steps of one workflow; each is a model with workers of its own.
STEPS_LIMIT = 64
#: Of a step's name, which is part of a model's.
NAME_LIMIT_CHARACTERS = 100
RETRIES_LIMIT = 100
NUMBER_LIMIT = 2**31 - 1

#: What may be said for all models and for one, with the least value and TorchServe's default.
_NUMBERS: dict[str, tuple[str, int, int]] = {
    "min-workers": ("min_workers", 0, 1),
    "max-workers": ("max_workers", 1, 1),
    "batch-size": ("batch_size", 1, 1),
    "max-batch-delay": ("max_batch_delay_ms", 0, 50),
    "retry-attempts": ("retry_attempts", 0, 1),
    "timeout-ms": ("timeout_ms", 1, 10_000),
}


class StepSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a step is run: its workers, its batches, how often it is tried again, how long a try may take."""

    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay_ms: int
    retry_attempts: int
    timeout_ms: int


class WorkflowStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step. A function has no url, and one worker that runs its requests one by one."""

    name: str
    url: str
    is_function: bool
    settings: StepSettings


class WorkflowSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The steps in the order of the file, and of each the ones that follow it, where it says so."""

    #: What is said for all models.
    defaults: StepSettings
    steps: tuple[WorkflowStep, ...]
    dag: tuple[tuple[str, tuple[str, ...]], ...]

    def predecessors(self) -> dict[str, list[str]]:
        """Return, of each step, the ones whose answers it gets."""
        return predecessors(self.dag)


def parse(content: bytes) -> WorkflowSpec:
    """Read a spec. Raises InvalidWorkflow, and InvalidDag for steps that can't follow one another."""
    try:
        document = model_config.load(content, has_unique_keys=True)
    except model_config.Unreadable as error:
        raise InvalidWorkflow("Failed to parse yaml.", str(error)) from error
    models = _mapping(document, "models")
    defaults = _settings(models, "models", None)
    of_models = {_name(name): said for name, said in models.items() if isinstance(said, dict)}
    dag = tuple((_name(name), _successors(name, said)) for name, said in _mapping(document, "dag").items())
    check(dag)
    names = list(predecessors(dag))
    return WorkflowSpec(
        defaults=defaults,
        steps=tuple(_step(name, of_models.get(name), defaults) for name in names),
        dag=dag,
    )


def check(dag: tuple[tuple[str, tuple[str, ...]], ...]) -> None:
    """Raise InvalidDag, in TorchServe's words, unless all steps follow one first step and none itself."""
    for name, successors in dag:
        if name in successors:
            raise InvalidDag("Self loop exception")
        if len(set(successors)) < len(successors):
            raise InvalidDag("loop exception")
    before = predecessors(dag)
    if len(before) > STEPS_LIMIT:
        raise InvalidWorkflow(f"The workflow has {len(before)} steps; the limit is {STEPS_LIMIT}.")
    left = {name: set(names) for name, names in before.items()}
    free = [name for name, names in left.items() if not names]
    if len(free) != 1:
        raise InvalidDag("DAG should have only one start node")
    after = dict(dag)
    while free:
        done = free.pop()
        del left[done]
        for name in after.get(done, ()):
            left[name].discard(done)
            if not left[name]:
                free.append(name)
    if left:
        raise InvalidDag("Not a valid DAG")


def predecessors(dag: tuple[tuple[str, tuple[str, ...]], ...]) -> dict[str, list[str]]:
    """Return all steps in the order in which they are named, each with those that it follows."""
    before: dict[str, list[str]] = {}
    for name, successors in dag:
        before.setdefault(name, [])
        for successor in successors:
            before.setdefault(successor, []).append(name)
    return before


def dag_text(dag: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    """Write which step follows which as TorchServe's describe does: {a=[b, c], b=[]}."""
    return "{" + ", ".join(f"{name}=[{', '.join(successors)}]" for name, successors in dag) + "}"


def _step(name: str, said: dict[object, object] | None, defaults: StepSettings) -> WorkflowStep:
    if said is None:
        settings = msgspec.structs.replace(
            defaults, min_workers=1, max_workers=1, batch_size=1, max_batch_delay_ms=0
        )
        return WorkflowStep(name=name, url="", is_function=True, settings=settings)
    url = said.get("url")
    if not isinstance(url, str | None):
        raise InvalidWorkflow(f"The url of {quoted(name)} is no text.")
    settings = _settings(said, name, defaults)
    return WorkflowStep(name=name, url=url or "", is_function=False, settings=settings)


def _settings(said: Mapping[object, object], where: str, defaults: StepSettings | None) -> StepSettings:
    """Read the numbers of one model, or of all. Raises InvalidWorkflow."""
    found: dict[str, int] = {}
    for key, (field, least, usual) in _NUMBERS.items():
        value = said.get(key)
        if value is None:
            found[field] = usual if defaults is None else getattr(defaults, field)
            continue
        most = RETRIES_LIMIT if key == "retry-attempts" else NUMBER_LIMIT
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidWorkflow(f"{key} of {quoted(where)} must be a whole number from {least} to {most}.")
        found[field] = value
    if found["max_workers"] < found["min_workers"] and said.get("max-workers") is not None:
        raise InvalidWorkflow(f"max-workers of {quoted(where)} is less than its min-workers.")
    found["max_workers"] = max(found["max_workers"], found["min_workers"])
    return StepSettings(**found)


def _mapping(document: Mapping[str, object], key: str) -> dict[object, object]:
    value = document.get(key)
    if not isinstance(value, dict) or not value:
        raise InvalidWorkflow(f"The workflow's spec has no {key}.", f"{key} must be a mapping with entries")
    return value


def _successors(name: object, said: object) -> tuple[str, ...]:
    if said is None:
        return ()
    if not isinstance(said, list):
        raise InvalidWorkflow(f"What follows {quoted(name)} in the dag must be a list of steps.")
    return tuple(map(_name, said))


def _name(name: object) -> str:
    if not isinstance(name, str) or not name or len(name) > NAME_LIMIT_CHARACTERS:
        raise InvalidWorkflow(
            f"A step's name must be a text of 1 to {NAME_LIMIT_CHARACTERS} characters: {quoted(repr(name))}"
        )
    if "/" in name or not name.isprintable():
        raise InvalidWorkflow(
            f"A step's name can't have a slash or a control character: {quoted(repr(name))}"
        )
    return name
