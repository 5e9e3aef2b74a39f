"""A broker that says anything: gateways, nodes and workers hear it out, and none ends but by a Leave."""

import random
from contextlib import suppress

from tests.fuzz.values import Pool, Values
from torchrelay.gateway import session as gateway
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.worker.common.peer_session import PeerSession
from torchrelay.worker.model import held_leases as worker

TO_GATEWAY = m.ToGateway.__args__
TO_WORKER = (*m.ToWorker.__args__, *m.ToNode.__args__)


def run(seed: int, times: int) -> None:
    """Tell a gateway's and a worker's session so many things. Raises what they do but WireError."""
    rng = random.Random(seed)
    pool = Pool([1, 2, 3, 4], ["m", "1.0", "ModelNotFound", "cpu"])
    values = Values(rng, pool)
    settings = GatewaySettings()
    of_gateway: gateway.GatewaySession[gateway.Pending] = gateway.GatewaySession(
        settings, name="g", pid=1, now=0.0
    )
    of_worker, leases = PeerSession(0.0), worker.HeldLeases()
    now = 0.0
    for _ in range(times):
        now += rng.choice((0.0, 0.01, 0.6, 4.0))
        if heard := _as_heard(rng, values, TO_GATEWAY):
            _gateway_hears(of_gateway, *heard, now, rng)
        if heard := _as_heard(rng, values, TO_WORKER):
            _worker_hears(of_worker, leases, *heard, now)


def _as_heard(
    rng: random.Random, values: Values, classes: tuple[type[m.Message], ...]
) -> tuple[m.Message, int] | None:
    message = values.message(classes)
    assert isinstance(message, m.Message)
    try:
        return codec.decode(codec.encode(message, rng.choice((1, 1, 1, 2, 0, 2**64 - 1))))
    except codec.WireError:
        return None


def _gateway_hears(
    one: gateway.GatewaySession[gateway.Pending],
    message: m.Message,
    epoch: int,
    now: float,
    rng: random.Random,
) -> None:
    frames = [memoryview(b"x")] * rng.choice((0, 0, 1, 2))
    with suppress(codec.WireError):  # which is logged, and passed over
        one.hear(message, epoch, frames, now=now)
    one.dismissed = None
    one.tick(now)
    if one.state == "welcomed" and rng.random() < 0.5:
        one.submit(gateway.Pending(), "m", None, b"", (), is_describe=False, now=now)
        one.ask(gateway.Pending(), m.ReadHealth(0), now=now)
    for sent, _ in one.outgoing(now):
        codec.decode(codec.encode(sent, one.epoch), codec.HEAD_TO_BROKER_LIMIT_BYTES)
    assert one.room.held_bytes >= 0


def _worker_hears(
    one: PeerSession, leases: worker.HeldLeases, message: m.Message, epoch: int, now: float
) -> None:
    match one.heard(message, epoch, now):
        case m.Assign() as assign:
            with suppress(codec.WireError):  # which is logged, and passed over
                for batch in worker.batches_of(assign, (), now):
                    leases.assigned(batch)
        case m.CancelJobs(lease, indexes):
            leases.cancelled(lease, indexes)
        case m.Welcome(is_new=True):
            leases.forget()
    one.due(now)
    assert one.next_wake() >= 0
    if len(leases.held) > 20:
        leases.forget()
    beat = m.WorkerBeat(leases.held, one.heard_beat)
    assert codec.decode(codec.encode(beat, one.epoch)) == (beat, one.epoch)
