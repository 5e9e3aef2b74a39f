"""Follows a node that drains: what is left on it, and whether its workers have a place on other nodes."""

from collections.abc import Callable, Collection
from threading import Event

from torchrelay.cli.faults import Fault
from torchrelay.client.sync_client import Client
from torchrelay.shared.api_bodies import FleetBody, FleetModelBody, MemberBody

POLL_INTERVAL_S = 0.5
ADVICE = (
    "have another host join (`torchrelay nodes invite`), make room by `torchrelay models scale`, or let the"
    " node work on by `torchrelay nodes resume`"
)


def drain(
    client: Client, name: str, say: Callable[[str], None], interval_s: float = POLL_INTERVAL_S
) -> MemberBody:
    """Have a node drain and wait until nothing is left on it; say each change in a line.

    Raises Fault where somebody has it work again.
    """
    # Before: what has no place elsewhere may have gone by the first look.
    moving = held(name, client.fleet())
    status = client.drain(name)
    say(f"{status.status}. Ctrl-C ends the waiting, not the draining.")
    line, said = "", ""
    while True:
        node, fleet = client.member("node", name), client.fleet()
        if node.state == "here":
            raise Fault(f"{name} drains no longer: somebody has resumed it")
        moving |= held(name, fleet)
        if not is_done(node) and (now_left := left(node, moving, fleet)) != line:
            line = now_left
            say(f"{name}: {line}")
        if (problems := "\n".join(without_place(node, moving, fleet))) != said:
            said = problems
            if problems:
                say(f"{problems}\n  {ADVICE}")
        if is_done(node):
            return node
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


def held(node: str, fleet: FleetBody) -> set[str]:
    """Name the models that have workers on a node."""
    return {model.label for model in fleet.models if any(worker.node == node for worker in model.workers)}


def left(node: MemberBody, moving: Collection[str], fleet: FleetBody) -> str:
    """Say what is left on a node, and of each model that moves how many workers are ready on other nodes."""
    counts = f"{_count(node.workers, 'worker')} and {_count(node.jobs_running, 'running request')} left"
    replaced = [
        f"{model.label} has {_ready_elsewhere(model, node.name)} of {model.workers_wanted} elsewhere"
        for model in fleet.models
        if model.label in moving
    ]
    return "; ".join([counts, *replaced])


def without_place(node: MemberBody, moving: Collection[str], fleet: FleetBody) -> list[str]:
    """Name the models of which too few workers are ready, or start, elsewhere, with the broker's reason."""
    return [
        f"{model.label} has no place elsewhere: {model.explanation}"
        for model in fleet.models
        if model.label in moving and model.explanation
        if _ready_elsewhere(model, node.name) < model.workers_wanted
        if not any(worker.node != node.name and worker.state != "ready" for worker in model.workers)
    ]


def _ready_elsewhere(model: FleetModelBody, node: str) -> int:
    return sum(worker.state == "ready" and worker.node != node for worker in model.workers)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
