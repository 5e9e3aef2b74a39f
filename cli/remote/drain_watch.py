"""Follows a node that drains: what is left on it, and whether its workers have a place on other nodes."""

from collections.abc import Callable, Iterator
from threading import Event

from torchrelay.cli.faults import Fault
from torchrelay.cli.remote.member_calls import MemberCalls
from torchrelay.shared.api_bodies import FleetBody, FleetModelBody, MemberBody

POLL_INTERVAL_S = 0.5
ADVICE = (
    "have another host join (`torchrelay nodes invite`), make room by `torchrelay models scale`, or let the"
    " node work on by `torchrelay nodes resume`"
)


def wait(
    calls: MemberCalls, name: str, say: Callable[[str], None], interval_s: float = POLL_INTERVAL_S
) -> MemberBody:
    """Wait until nothing is left on a node, and say each change in a line.

    Raises Fault where somebody has it work again.
    """
    said: set[str] = set()
    line = ""
    while True:
        node = calls.member(name)
        if is_done(node):
            return node
        if node.state == "here":
            raise Fault(f"{name} drains no longer: somebody has resumed it")
        fleet = calls.client.fleet()
        if (now_left := left(node, fleet)) != line:
            line = now_left
            say(f"{name}: {line}")
        problems = without_place(node, fleet)
        for problem in problems:
            if problem not in said:
                say(f"{problem}\n  {ADVICE}")
        said = set(problems)
        Event().wait(interval_s)


def summary(node: MemberBody) -> str:
    """Say how it ended, and what to do next."""
    if node.state == "revoked":
        return f"{node.name} is revoked: nothing is left to wait for."
    if node.state == "away":
        return f"{node.name} has left: nothing is left to wait for."
    return (
        f"{node.name} is drained: nothing is left on it. Stop it, or give it work again by"
        f" `torchrelay nodes resume {node.name}`."
    )


def is_done(node: MemberBody) -> bool:
    """Tell whether nothing is left on a node, or nothing that could be waited for."""
    return node.workers == 0 or node.state in ("away", "revoked")


def left(node: MemberBody, fleet: FleetBody) -> str:
    """Say what is left on a node, and of each of its models how many workers are ready on other nodes."""
    counts = f"{_count(node.workers, 'worker')} and {_count(node.jobs_running, 'running request')} left"
    replaced = [
        f"{model.label} has {_ready_elsewhere(model, node.name)} of {model.workers_wanted} elsewhere"
        for model in _held(node, fleet)
    ]
    return "; ".join([counts, *replaced])


def without_place(node: MemberBody, fleet: FleetBody) -> list[str]:
    """Name the models whose workers can't be started elsewhere, with the broker's reason."""
    return [
        f"{model.label} has no place elsewhere: {model.explanation}"
        for model in _held(node, fleet)
        if model.explanation and _ready_elsewhere(model, node.name) < model.workers_wanted
        if not any(worker.node != node.name and worker.state != "ready" for worker in model.workers)
    ]


def _held(node: MemberBody, fleet: FleetBody) -> Iterator[FleetModelBody]:
    for model in fleet.models:
        if any(worker.node == node.name for worker in model.workers):
            yield model


def _ready_elsewhere(model: FleetModelBody, node: str) -> int:
    return sum(worker.state == "ready" and worker.node != node for worker in model.workers)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
