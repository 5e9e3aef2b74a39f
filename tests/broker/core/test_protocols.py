"""Peers of the version before: gateway, node and worker, with the fields that they knew alone."""

from pathlib import Path

import msgpack

from tests.broker.rig import GATEWAY, NODE, Rig
from torchrelay.broker.core.events import Received
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

BEFORE = m.OLDEST_PROTOCOL_VERSION
LINES = (Path(__file__).parents[2] / "shared" / f"golden_wire_{BEFORE}.txt").read_text("ascii").splitlines()
#: Kind of that version -> how many fields it had.
FIELDS = {
    name: len(msgpack.unpackb(bytes.fromhex(digits)[codec.PREFIX.size :], strict_map_key=False))
    for name, digits in (line.split(" ") for line in LINES)
}


def say(rig: Rig, peer: bytes, message: m.Message) -> None:
    """Say a message as a peer of the version before would: with the fields that it knew."""
    head = codec.encode(message, 0 if isinstance(message, m.Hello) else rig.epoch)
    fields = msgpack.unpackb(head[codec.PREFIX.size :], strict_map_key=False)
    short = head[: codec.PREFIX.size] + msgpack.packb(fields[: FIELDS[type(message).__name__]])
    decoded, epoch = codec.decode(short, codec.HEAD_TO_BROKER_LIMIT_BYTES)
    rig.feed(Received(peer, decoded, epoch, ()))


def test_peers_of_the_version_before_join_are_given_work_and_answer() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.register()
    say(rig, b"gateway-3", m.HelloGateway(BEFORE, "old", 1))
    say(rig, NODE, m.HelloNode(BEFORE, "n", (m.Device("cpu", "cpu"),), 8, ()))
    order = rig.only(NODE, m.StartWorker)
    worker = b"w-%d" % order.worker_id
    say(
        rig,
        worker,
        m.HelloWorker(BEFORE, order.worker_id, "n", "m", "1.0", order.archive, "cpu", 7, order.claim),
    )
    say(rig, b"gateway-3", m.Submit((m.SubmitItem(1, "m", None, False, b"meta"),), 0))
    batch = rig.only(worker, m.Assign)
    say(rig, worker, m.Completed(batch.lease, 1, (m.CompletedItem(200, b"answer"),)))
    (answer,) = rig.only(b"gateway-3", m.Answered).items
    assert (answer.job, answer.meta) == (1, b"answer")
    say(rig, worker, m.WorkerBeat((), 1))
    say(rig, NODE, m.NodeBeat(((order.worker_id, 1),)))
    say(rig, b"gateway-3", m.GatewayBeat({"2xx": 1}, (2,)))
    assert rig.only(b"gateway-3", m.Forgotten).jobs == (2,)
    assert {peer: message for peer in (b"gateway-3", NODE, worker) for message, _ in rig.inbox[peer]
            if type(message).__name__ not in FIELDS} == {}, "sent a kind that it doesn't know"  # fmt: skip
    assert not rig.take(GATEWAY, m.Misunderstood)
    assert rig.core.stats.misunderstood == 0
