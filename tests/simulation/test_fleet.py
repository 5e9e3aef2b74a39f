"""Whole fleets under a misbehaving network, by seed.

Safety is checked all the time: the core's invariants after each of its turns, one outcome per request,
and that one its own. Liveness at the end: once nothing breaks any more, every request is settled within
SETTLED_WITHIN_S and new requests are answered.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.simulation.world import MODEL, Faults, SimulatedGateway, SimulatedNode, World
from torchrelay.gateway.session import Answer
from torchrelay.shared import errors
from torchrelay.shared.archives.model_config import ModelConfig, PlacementWish
from torchrelay.shared.settings import BrokerSettings

#: Half the response_timeout again above what can follow one another: a node found silent, a worker found
#: stuck at its lease's deadline, and the waiting for a restart.
SETTLED_WITHIN_S = 30.0
#: The longest wait before a restart that failures in TROUBLE_S can lead to, counted from the last of them.
RESTARTED_WITHIN_S = 60.0
TROUBLE_S = 30.0
#: Turns of the broker's loop per simulated second that so few messages can cause; a core that spins on
#: something it can't do comes to 10,000.
TURNS_PER_S_MAX = 600

SCENARIOS = {
    "calm": Faults(),
    "losses": Faults(drop=0.03, duplicate=0.03, delay_s=0.02),
    "broken connections": Faults(breaks_per_s=0.5, delay_s=0.01),
    "dying workers": Faults(worker_deaths_per_s=0.5, failed_loads=0.2),
    "dying nodes": Faults(node_deaths_per_s=0.1),
    "dying broker": Faults(broker_deaths_per_s=0.1),
    "broker that stands still": Faults(broker_pauses_per_s=0.2, delay_s=0.01),
    "cuts": Faults(cuts_per_s=0.15, delay_s=0.01),
    "nodes that are stopped": Faults(node_stops_per_s=0.2, drop=0.01),
    "everything": Faults(0.01, 0.01, 0.01, 0.2, 0.2, 0.05, 0.05, 0.05, 0.05, 0.1, 0.05),
}


MODES = {
    "streams": ModelConfig(),
    "continuous": ModelConfig(continuous_batching=True),
    "async": ModelConfig(async_communication=True),
    "sequences": ModelConfig(sequence_batching=True, sequence_max_idle_ms=2000, max_sequence_queue_jobs=50,
                             max_sequences=10),
    "sequences, continuous": ModelConfig(sequence_batching=True, sequence_max_idle_ms=2000,
                                         max_sequence_queue_jobs=50, max_sequences=10,
                                         continuous_batching=True),
    "impatient clients": ModelConfig(client_timeout_ms=500),
}  # fmt: skip


def fleet(
    seed: int,
    faults: Faults,
    config: ModelConfig | None = None,
    workers: int = 3,
    *,
    job_queue_size: int = 1000,
    models: Sequence[str] = (MODEL,),
    zones: str = "ab",
) -> World:
    settings = BrokerSettings(
        state_dir="/nowhere", enable_model_api=True, job_queue_size=job_queue_size, settle_s=2.0,
        ahead_s=0.3 if seed % 2 else 0.002,
    )  # fmt: skip
    world = World(seed, faults, settings, config)
    world.told_s = 0.0001 if seed % 4 == 1 else None  # some batches go by the handful
    world.gateways = [SimulatedGateway(world, number) for number in range(2)]
    world.nodes = [
        SimulatedNode(world, number, 4, 26 << 30, (("zone", zone),)) for number, zone in enumerate(zones)
    ]
    world.is_faulty = False
    world.run_until(1.0)
    for model in models:
        world.gateways[0].register(workers=workers, batch_size=4, model=model)
    world.run_until(4.0)
    return world


def ask_now_and_then(world: World, until: float, models: Sequence[str] = (MODEL,)) -> None:
    """Let clients come at random, some of whom hang up."""

    def come() -> None:
        if world.now >= until:
            return
        gateway = world.rng.choice(world.gateways)
        gateway.request(*models)
        if world.rng.random() < 0.1:
            request = gateway.requests[-1]
            world.after(world.rng.uniform(0, 0.3), lambda: gateway.leave(request))
        world.after(world.rng.expovariate(30), come)

    come()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("seed", range(6))
def test_every_request_is_settled_once_and_in_bounded_time(scenario: str, seed: int) -> None:
    world = fleet(seed, SCENARIOS[scenario])
    world.is_faulty = True
    world.begin_misfortune()
    ask_now_and_then(world, world.now + TROUBLE_S)
    world.run_until(world.now + TROUBLE_S)
    world.is_faulty = False
    world.run_until(world.now + SETTLED_WITHIN_S)
    requests = [request for gateway in world.gateways for request in gateway.requests]
    unsettled = [request for request in requests if not request.outcomes]
    assert not unsettled, f"{len(unsettled)} of {len(requests)} were never settled, first {unsettled[0]}"
    assert world.broker.turns < TURNS_PER_S_MAX * world.now, "the broker spins"
    assert not any(gateway.session.waiting for gateway in world.gateways)
    world.run_until(world.now + RESTARTED_WITHIN_S - SETTLED_WITHIN_S)
    for gateway in world.gateways:
        gateway.request()
    world.run_until(world.now + 2.0)
    assert all(isinstance(gateway.requests[-1].outcomes[0], Answer) for gateway in world.gateways)


@pytest.mark.parametrize("seed", range(6))
def test_no_request_fails_though_nodes_are_stopped_one_after_the_other(seed: int) -> None:
    """Nothing else breaks: each node waits for the one before it to be back. One worker is always ready."""
    world = fleet(seed, Faults(), workers=1)
    until = world.now + TROUBLE_S
    ready: list[int] = []

    def watch() -> None:
        assert world.broker.core is not None
        ready.append(len(world.broker.core.fleet.ready((MODEL, "1.0"))))
        if world.now < until:
            world.after(0.1, watch)

    ask_now_and_then(world, until)
    watch()
    for node in world.nodes:
        node.leave()
        world.run_until(world.now + TROUBLE_S / len(world.nodes))
    world.run_until(world.now + SETTLED_WITHIN_S)
    outcomes = [outcome for gateway in world.gateways for one in gateway.requests for outcome in one.outcomes]
    failed = [outcome for outcome in outcomes if isinstance(outcome, errors.RelayError)]
    assert min(ready) == 1
    assert len(outcomes) > 100
    assert not failed, f"{len(failed)} of {len(outcomes)} failed, first {failed[0]}"


@pytest.mark.parametrize("scenario", ["losses", "everything"])
@pytest.mark.parametrize("seed", range(4))
def test_no_client_waits_longer_than_it_said_whatever_fails(scenario: str, seed: int) -> None:
    world = fleet(seed, SCENARIOS[scenario])
    world.is_faulty = True
    world.begin_misfortune()
    until = world.now + TROUBLE_S

    def come() -> None:
        if world.now < until:
            world.rng.choice(world.gateways).request(waits_s=world.rng.choice((0.05, 0.5, 3.0)))
            world.after(world.rng.expovariate(30), come)

    come()
    world.run_until(until + 3.5)
    requests = [request for gateway in world.gateways for request in gateway.requests]
    assert all(request.outcomes for request in requests)
    kinds = {type(request.outcomes[0]) for request in requests}
    assert {Answer, errors.PredictionTimeout} <= kinds, "some are in time, and some are not"


@pytest.mark.parametrize("scenario", ["losses", "dying workers", "everything"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(2))
def test_every_mode_settles_every_request_once_with_its_parts_in_order(
    mode: str, scenario: str, seed: int
) -> None:
    """That parts are in order, none doubled or missing, each request checks by itself."""
    world = fleet(seed, SCENARIOS[scenario], MODES[mode])
    world.parts_max = 3
    world.is_faulty = True
    world.begin_misfortune()
    ask_now_and_then(world, world.now + TROUBLE_S / 2)
    world.run_until(world.now + TROUBLE_S / 2)
    world.is_faulty = False
    world.run_until(world.now + SETTLED_WITHIN_S)
    requests = [request for gateway in world.gateways for request in gateway.requests]
    assert all(request.outcomes for request in requests)
    assert not any(gateway.session.waiting for gateway in world.gateways)
    assert any(isinstance(request.outcomes[0], Answer) and request.got for request in requests)
    if scenario == "dying workers":  # with nothing lost on the way and no broker that forgets
        assert world.out_of_order() == ""


@pytest.mark.parametrize(
    "scenario", ["losses", "broken connections", "broker that stands still", "dying broker"]
)
@pytest.mark.parametrize("mode", [None, "streams", "async", "sequences"])
@pytest.mark.parametrize("seed", range(3))
def test_no_handler_runs_a_request_twice_while_no_worker_dies(
    seed: int, mode: str | None, scenario: str
) -> None:
    world = fleet(seed, SCENARIOS[scenario], MODES[mode] if mode else None)
    world.parts_max = 3 if mode else 0
    world.is_faulty = True
    world.begin_misfortune()
    ask_now_and_then(world, world.now + TROUBLE_S / 2)
    world.run_until(world.now + TROUBLE_S / 2)
    world.is_faulty = False
    world.run_until(world.now + SETTLED_WITHIN_S)
    assert len(world.runs) > 100
    assert set(world.runs.values()) == {1}
    if scenario in ("broker that stands still", "dying broker"):  # where nothing is lost on the way
        assert world.out_of_order() == ""
    outcomes = [request.outcomes[0] for gateway in world.gateways for request in gateway.requests]
    failed = [outcome for outcome in outcomes if isinstance(outcome, errors.RelayError)]
    if (
        scenario in ("broken connections", "broker that stands still") and mode != "sequences"
    ):  # else of a batch that is lost in each of its tries
        assert not failed, f"{len(failed)} of {len(outcomes)}, first {failed[0]}"


def test_a_calm_fleet_answers_everything_with_nothing_tried_twice() -> None:
    world = fleet(1, Faults())
    ask_now_and_then(world, world.now + 10)
    world.run_until(world.now + 15)
    core = world.broker.core
    assert core is not None
    outcomes = core.stats.versions["m", "1.0"].outcomes
    assert set(outcomes) <= {"answered", "cancelled"}
    assert core.stats.retries == core.stats.stale_results == core.stats.misunderstood == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_broker_that_stands_still_ends_no_worker_and_refuses_nothing(seed: int) -> None:
    world = fleet(seed, SCENARIOS["broker that stands still"])
    workers = {worker_id for node in world.nodes for worker_id in node.workers}
    world.is_faulty = True
    world.begin_misfortune()
    ask_now_and_then(world, world.now + TROUBLE_S)
    world.run_until(world.now + TROUBLE_S)
    world.is_faulty = False
    world.run_until(world.now + SETTLED_WITHIN_S)
    assert {worker_id for node in world.nodes for worker_id in node.workers} == workers
    outcomes = [request.outcomes[0] for gateway in world.gateways for request in gateway.requests]
    assert {type(outcome) for outcome in outcomes} == {Answer, type(None)}, "None: its client hung up"
    core = world.broker.core
    assert core is not None
    assert not core.stats.worker_failures
    assert core.stats.retries == 0


@pytest.mark.parametrize("scenario", ["broker that stands still", "cuts"])
@pytest.mark.parametrize("seed", [0, 1, 3, 4, 5, 6])  # with 2 nobody asks while something is cut
def test_what_had_to_wait_is_let_in_whatever_made_it_wait(scenario: str, seed: int) -> None:
    world = fleet(seed, SCENARIOS[scenario], job_queue_size=25)
    world.is_faulty = True
    world.begin_misfortune()
    ask_now_and_then(world, world.now + TROUBLE_S)
    world.run_until(world.now + TROUBLE_S)
    world.is_faulty = False
    world.run_until(world.now + SETTLED_WITHIN_S)
    # A cut shows by the beat that a gateway has missed: what comes that soon behind it counts as any other.
    shows_after_s = 2 * BrokerSettings(state_dir="").beat_interval_s if scenario == "cuts" else 0.0
    had_to_wait = [
        request
        for gateway in world.gateways
        for request in gateway.requests
        if any(since <= request.asked_at < until - shows_after_s for since, until in world.outages)
    ]
    details = Counter(str(getattr(request.outcomes[0], "details", "")) for request in had_to_wait)
    assert had_to_wait
    assert not [text for text in details if "job_queue_size" in text], details


def test_a_seed_repeats_itself_to_the_last_outcome() -> None:
    def outcomes() -> list[str]:
        world = fleet(7, SCENARIOS["everything"])
        world.is_faulty = True
        world.begin_misfortune()
        ask_now_and_then(world, world.now + 10)
        world.run_until(world.now + 20)
        return [repr(request.outcomes) for gateway in world.gateways for request in gateway.requests]

    assert outcomes() == outcomes()


def effects_of_a_run(seed: int) -> list[str]:
    """Return all that the broker of a fleet with several models wanted done, in order."""
    models = [f"model-{number}" for number in range(4)]
    world = fleet(seed, SCENARIOS["everything"], workers=2, models=models)
    world.effects = []
    world.is_faulty = True
    world.begin_misfortune()
    ask_now_and_then(world, world.now + 10, models)
    world.run_until(world.now + 20)
    return world.effects


@pytest.mark.integration
def test_a_seed_is_the_same_run_in_every_process() -> None:
    """Python gives each process its own hashes of texts, and thereby its own order of sets."""
    script = "from tests.simulation.test_fleet import effects_of_a_run as run; print(*run(7), sep='\\n')"
    one, other = (
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed},
            check=True, capture_output=True,
        ).stdout
        for seed in ("1", "2")
    )  # fmt: skip
    assert one.count(b"Assign(") > 50, "too little happens to show anything"
    assert one == other


ASKING = ModelConfig(placement=PlacementWish(memory_bytes=9 << 30, labels=(("zone", "a"),)))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("seed", range(2))
def test_workers_are_where_their_memory_and_labels_are_whatever_fails(scenario: str, seed: int) -> None:
    """Two nodes of zone a have room for two workers each, and a fifth is wanted."""
    world = fleet(seed, SCENARIOS[scenario], ASKING, workers=5, zones="aab")
    world.is_faulty = True
    world.begin_misfortune()
    ask_now_and_then(world, world.now + TROUBLE_S)
    world.run_until(world.now + TROUBLE_S)
    world.is_faulty = False
    world.run_until(world.now + RESTARTED_WITHIN_S)
    for node in world.nodes:
        assert not node.orders or node.labels == (("zone", "a"),)
        for order, others in node.orders:
            taken = order.reserved_bytes + sum(held.reserved_bytes for held in others)
            # What is under way when the network is cut, arrives when the broker has given it up.
            assert taken <= node.memory_bytes or SCENARIOS[scenario].cuts_per_s, f"{taken} bytes are ordered"
    assert [len(node.workers) for node in world.nodes] == [2, 2, 0]
    core = world.broker.core
    assert core is not None
    why = core.fleet.explain(core.catalog.resolve(MODEL, None), world.now)
    assert why.startswith("wants 5, has 4, no node has a place: needs 9 GiB and the label zone=a;")
    assert "cpu of n0 has 8 GiB free of 26" in why
    assert "n2 lacks the label zone=a" in why


POISONED_S = 20.0


def poison_and_ask(world: World, per_s: float, *, is_same: bool) -> None:
    """Let one client send what ends workers while others ask for what doesn't."""

    def strike(number: int) -> None:
        if number < per_s * POISONED_S:
            world.rng.choice(world.gateways).poison(b"poison" if is_same else b"poison %d" % number)
            world.after(1 / per_s, lambda: strike(number + 1))

    strike(0)
    ask_now_and_then(world, world.now + POISONED_S)
    world.run_until(world.now + POISONED_S + SETTLED_WITHIN_S)


@pytest.mark.parametrize("is_same", [True, False], ids=["one content", "another each time"])
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("mode", ["streams", "continuous", "async"])
@pytest.mark.parametrize("seed", range(2))
def test_requests_that_end_workers_fail_and_no_other_does(
    seed: int, mode: str, workers: int, is_same: bool
) -> None:
    world = fleet(seed, Faults(), MODES[mode], workers=workers)
    world.loading_s, world.running_s = (0.02, 0.2), (0.001, 0.02)
    # A lone worker needs time for the others, too: each poison costs two of its starts.
    poison_and_ask(world, 1 if workers == 1 else 2, is_same=is_same)
    requests = [request for gateway in world.gateways for request in gateway.requests]
    assert all(request.outcomes for request in requests)
    for request in requests:
        (outcome,) = request.outcomes
        if request.is_poison:
            assert isinstance(outcome, errors.RelayError), f"{request} was answered"
        else:  # or its client has left
            assert outcome is None or isinstance(outcome, Answer), f"{request} was refused"
    poisons = sum(request.is_poison for request in requests)
    assert world.poisoned <= (6 if is_same else 3 * poisons)
