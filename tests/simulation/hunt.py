"""Seed after seed, a fleet with some fault or other, until something that must hold does not.

Each seed has its own faults and its own chances. What must hold is what the fleet promises; `hunt` says which
promise was broken, and raises nothing.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import count

from tests.simulation.test_fleet import ask_now_and_then, fleet
from tests.simulation.world import Change, Faults, Request, World
from torchrelay.gateway.session import Answer

#: How long things break, and how long a fleet is looked at afterwards: the longest wait before a restart that
#: failures in that time can lead to.
TROUBLE_S = 12.0
AFTERWARDS_S = 60.0
BURST = 120
#: Tries of a job, by default, with the one more of what ran beside others, or maybe never began.
RUNS_MAX = 3
#: One after another, for seeds 0, 1, 2, ...; the last are several at once.
KINDS: dict[str, Faults] = {
    "lost and doubled messages": Faults(drop=0.1, duplicate=0.05, delay_s=0.01),
    "doubled messages": Faults(duplicate=0.1, delay_s=0.01),
    "lost messages and workers that end": Faults(drop=0.05, worker_deaths_per_s=0.5),
    "workers that end": Faults(worker_deaths_per_s=0.7, failed_loads=0.1),
    "workers that hang": Faults(worker_hangs_per_s=0.2),
    "workers that stand still": Faults(worker_pauses_per_s=0.4),
    "hosts that end": Faults(node_deaths_per_s=0.2),
    "hosts that stand still": Faults(node_pauses_per_s=0.3),
    "gateway processes that end": Faults(gateway_deaths_per_s=0.3),
    "brokers that end": Faults(broker_deaths_per_s=0.7, delay_s=0.05, late=1.0),
    "a network that is cut": Faults(cuts_per_s=0.15, delay_s=0.01),
    "a registry that can't be written": Faults(failed_stores=0.3),
    "requests that end workers": Faults(),
    "nodes that are told to stop": Faults(node_stops_per_s=0.1),
    "everything": Faults(
        0.01,
        0.01,
        0.01,
        0.2,
        0.2,
        0.05,
        0.05,
        0.05,
        0.05,
        0.1,
        worker_hangs_per_s=0.05,
        worker_pauses_per_s=0.1,
        node_pauses_per_s=0.05,
        gateway_deaths_per_s=0.1,
        failed_stores=0.1,
    ),
}
#: Where nothing is lost on the way and no broker forgets: whoever left is heard of.
_KEPT_TRACK = frozenset({"doubled messages", "workers that end", "hosts that end",
                         "requests that end workers", "a registry that can't be written"})  # fmt: skip
#: Where no worker is lost that runs something: nothing is run twice.
_RUNS_ONCE = frozenset({"lost and doubled messages", "doubled messages", "gateway processes that end",
                        "brokers that end", "a registry that can't be written",
                        "nodes that are told to stop"})  # fmt: skip
#: Where nobody is refused who did no harm.
_NO_REFUSAL = frozenset({"lost and doubled messages", "doubled messages", "requests that end workers"})


def hunt(seed: int) -> str:
    """Run one seed; return what was broken, or nothing."""
    return hunt_and_count(seed)[0]


def hunt_and_count(seed: int) -> tuple[str, int]:
    """Do the same, and count the requests as well."""
    kind = list(KINDS)[seed % len(KINDS)]
    try:
        world = run(seed, kind)
        return _broken(kind, world), sum(len(gateway.requests) for gateway in world.gateways)
    except Exception as error:  # noqa: BLE001  # a mutant may break anything in any way
        return f"{type(error).__name__}: {error}", 0


def simulated_s() -> float:
    """Return how long the fleet of one seed is looked at."""
    return 4.0 + TROUBLE_S + AFTERWARDS_S


def run(seed: int, kind: str) -> World:
    """Have a fleet go through a kind of trouble, and come to rest."""
    world = fleet(seed, KINDS[kind])
    world.loading_s = 0.1, 0.5
    world.is_faulty = True
    world.begin_misfortune()
    _change_now_and_then(world)
    if kind == "requests that end workers":
        world.running_s = 0.001, 0.02
        _poison_now_and_then(world)
    for seconds in (2.0, 6.0):
        world.after(seconds, lambda: _burst(world))
    ask_now_and_then(world, world.now + TROUBLE_S)
    world.run_until(world.now + TROUBLE_S)
    world.is_faulty = False
    world.run_until(world.now + AFTERWARDS_S)
    return world


def _change_now_and_then(world: World) -> None:
    numbers = count()
    until = world.now + TROUBLE_S

    def come() -> None:
        if world.now >= until:
            return
        number = next(numbers)
        gateway = world.rng.choice(world.gateways)
        if number % 4 == 1 and f"side-{number - 1}" in world.registrations.wanted:
            gateway.change(f"side-{number - 1}", is_there=False)
        else:
            gateway.change(f"side-{number}", is_there=True)
        world.after(world.rng.expovariate(2), come)

    come()


def _burst(world: World) -> None:
    """Have more clients come at once than can be served at once; some leave before it is their turn."""
    for number in range(BURST):
        gateway = world.rng.choice(world.gateways)
        gateway.request()
        if number % 3 == 0:
            request = gateway.requests[-1]
            world.after(0.05, partial(gateway.leave, request))


def _poison_now_and_then(world: World) -> None:
    until = world.now + TROUBLE_S

    def strike(number: int) -> None:
        if world.now < until:
            world.rng.choice(world.gateways).poison(b"poison %d" % number)
            world.after(0.5, lambda: strike(number + 1))

    strike(0)


def _broken(kind: str, world: World) -> str:
    requests = [request for gateway in world.gateways for request in gateway.requests]
    unsettled = [request for request in requests if not request.outcomes]
    if unsettled:
        return f"{len(unsettled)} of {len(requests)} requests were never settled"
    if faults := world.registrations.faults(world.broker.registered() - {"m"}):
        return faults[0]
    if broken := _not_at_rest(world):
        return broken
    if kind in _KEPT_TRACK and world.begun_in_vain:
        return f"{len(world.begun_in_vain)} jobs were begun long after their clients had left"
    if broken := _run_too_often(kind, world, requests):
        return broken
    if kind == "requests that end workers" and world.poisoned > 3 * sum(one.is_poison for one in requests):
        return f"workers were ended {world.poisoned} times"
    if kind in _NO_REFUSAL:
        refused = [one for one in requests if not (isinstance(one, Change) or one.is_poison)
                   and not (one.outcomes[0] is None or isinstance(one.outcomes[0], Answer))]  # fmt: skip
        if refused:
            return f"{len(refused)} innocent requests were refused"
    return _does_not_answer(world)


def _run_too_often(kind: str, world: World, requests: Sequence[Request]) -> str:
    """Say which request was run too often; each restart of the broker since it came may cost a run."""
    for request in requests:
        most = 1 if kind in _RUNS_ONCE else RUNS_MAX + world.broker.starts_since(request.asked_at)
        if world.runs[request.payload] > most:
            return f"{request.payload!r} was run {world.runs[request.payload]} times"
    return ""


def _not_at_rest(world: World) -> str:
    """Say what is still there of requests that have ended, and of peers that have gone."""
    core = world.broker.core
    if core is None:
        return "there is no broker"
    if core.jobs.leases or any(queue.jobs for queue in core.jobs.queues.values()):
        return "jobs wait or run though all requests have ended"
    if any(gateway.session.waiting for gateway in world.gateways):
        return "a gateway still waits for something"
    names = sorted(node.name for node in core.fleet.nodes.values())
    if names != [node.name for node in world.nodes]:
        return f"the broker's nodes are {names}"
    if len(core.gateways) != len(world.gateways):
        return f"the broker has {len(core.gateways)} gateways"
    held = Counter(worker_id for node in world.nodes for worker_id in node.workers)
    if set(held) != set(core.fleet.workers) or any(number > 1 for number in held.values()):
        return f"nodes hold the workers {sorted(held)}, the broker has {sorted(core.fleet.workers)}"
    return ""


def _does_not_answer(world: World) -> str:
    for gateway in world.gateways:
        gateway.request()
    world.run_until(world.now + 2.0)
    answered = [isinstance(gateway.requests[-1].outcomes[0], Answer) for gateway in world.gateways
                if gateway.requests[-1].outcomes]  # fmt: skip
    if answered == [True] * len(world.gateways):
        return ""
    return f"a request is not answered {AFTERWARDS_S:g} s after the last fault"
