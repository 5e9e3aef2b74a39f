"""Attacks on the broker's port by what members say: values out of range, others' workers, too many peers."""

import itertools
import json
import random
from pathlib import Path

import msgpack

from tests.attacks import zmtp
from tests.attacks.attacker import Attacker, pause
from torchrelay.shared.archives import model_archive
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

MANY_WORKERS, MANY_NODES, UNKNOWN_WORKERS = 2000, 1000, 1000
HEAD_BYTES = 8 * 1024 * 1024 - 1024
VALUE_BYTES = 7_000_000
LARGEST = 2**64 - 1
SMALLEST = -(2**63)
CPU = m.Device("cpu", "cpu")


def node(
    name: str, *workers: m.HeldWorker, slots: int = 0, devices: tuple[m.Device, ...] = (CPU,)
) -> m.HelloNode:
    return m.HelloNode(zmtp.PROTOCOL, name, devices, slots, workers)


def worker(
    worker_id: int,
    attacker: Attacker,
    device: str = "cpu",
    name: str = "far",
    of: tuple[str, str] | None = None,
) -> m.HelloWorker:
    model, archive_id = of or ("stored", attacker.target.archive)
    return m.HelloWorker(zmtp.PROTOCOL, worker_id, name, model, "1.0", archive_id, device, 1)


def gpu(number: str, memory_bytes: int = 0) -> m.Device:
    return m.Device(f"cuda:{number}", "gpu", "", memory_bytes)


def job(number: int, frames: int = 0) -> m.SubmitItem:
    return m.SubmitItem(number, "stored", None, False, b"", frames)


def held(worker_id: int, attacker: Attacker, device: str = "cpu") -> m.HeldWorker:
    return m.HeldWorker(worker_id, "stored", "1.0", attacker.target.archive, device, 1)


def gateway() -> m.HelloGateway:
    return m.HelloGateway(zmtp.PROTOCOL, "attacker", 1)


def out_of_range(attacker: Attacker) -> None:
    """Send messages whose values no honest peer has."""
    tries = itertools.cycle(_bad_hellos(attacker) + _bad_messages())
    seed = random.Random(1)
    for number in attacker.rounds():
        hello, message = next(tries)
        peer = zmtp.dial(attacker, role=zmtp.role_of(hello))
        if peer is None:
            continue
        is_welcome = peer.hello(hello, within_s=0.5)
        attacker.counts[
            f"{type(message or hello).__name__}{'' if is_welcome else ' of an unknown peer'}"
        ] += 1
        if is_welcome and message:
            peer.say(message)
        if number % 3 == 0:
            head = bytearray(codec.encode(message or hello, peer.epoch))
            for _ in range(3):
                head[seed.randrange(len(head))] = seed.randrange(256)
            peer.send(bytes(head))
            peer.send(
                codec.PREFIX.pack(codec.WIRE_VERSION, seed.choice([*codec.KINDS]), 0, peer.epoch)
                + b"\x91" * 5000
            )
        peer.line.has_news(0.2)
        peer.close()


_Try = tuple[m.Message, m.Message | None]


def _bad_hellos(attacker: Attacker) -> list[_Try]:
    digits = "9" * 5000
    hellos = [
        node("far", held(LARGEST, attacker), slots=1),
        node("far", held(-1, attacker), held(SMALLEST, attacker), slots=1),
        node("far", held(5, attacker, f"cuda:{digits}"), slots=1, devices=(gpu(digits),)),
        node("far", slots=2**63),
        node("far", slots=SMALLEST),
        node("far", slots=1, devices=(gpu("0", LARGEST), gpu("-1", -1))),
        node("far", slots=1, devices=tuple(gpu(str(number)) for number in range(20_000))),
        node("n" * 100_000, slots=1),
        node("\x1b[2J\n\0\ud7ff", slots=1),
        m.HelloNode(LARGEST, "far", (CPU,), 1, ()),
        m.HelloNode(zmtp.PROTOCOL, "far", (CPU,), SMALLEST, ()),
        m.HelloGateway(zmtp.PROTOCOL, "g" * 100_000, LARGEST),
        worker(LARGEST, attacker),
        worker(SMALLEST, attacker, f"cuda:{digits}"),
    ]  # fmt: skip
    return [(hello, None) for hello in hellos]


def _bad_messages() -> list[_Try]:
    wide = node("wide", slots=2**63)
    point = m.MetricPoint("attack", "histogram", "Count", float("nan"), (("a", "b" * 1000),), LARGEST)
    asks: list[m.Message] = [
        m.ListModels(1, -3, SMALLEST),
        m.ListModels(LARGEST, LARGEST, LARGEST),
        m.ListModels(-1, 2**62, 2**62),
        m.ScaleWorkers(2, "stored", None, 300_000, 300_000, False),
        m.ScaleWorkers(2, "stored", None, LARGEST, LARGEST, True, SMALLEST),
        m.ScaleWorkers(2, "stored", None, -5, -9, False),
        m.RegisterModel(3, "echo.mar", "x", batch_size=LARGEST, max_batch_delay_ms=LARGEST,
                        response_timeout_s=LARGEST, startup_timeout_s=SMALLEST, initial_workers=LARGEST),
        m.UnregisterModel(4, "no such", "v" * 100_000),
        m.DescribeModel(5, "d" * 1_000_000, None),
        m.SetDefault(6, "stored", "9" * 100_000),
        m.Submit((job(LARGEST),), LARGEST),
        m.Submit((job(1, LARGEST),)),
        m.Submit((job(1, -1), job(2, 1))),
        m.Cancel((LARGEST, SMALLEST)),
        m.GatewayBeat({"2xx": LARGEST, "5xx": SMALLEST, "x": 1}, (LARGEST,), (SMALLEST,)),
        m.Announced(LARGEST),
        m.Announced(SMALLEST),
    ]  # fmt: skip
    told: list[m.Message] = [
        m.NodeBeat(((LARGEST, LARGEST), (SMALLEST, SMALLEST))),
        m.NodeMeasured("far", (point,), (m.GpuUse(LARGEST, SMALLEST, LARGEST, SMALLEST),)),
        m.WorkerProgressed(LARGEST, "loading", LARGEST, LARGEST, SMALLEST),
        m.WorkerExited(LARGEST, LARGEST, SMALLEST, "r" * 1_000_000, False, ("l" * 1_000_000,)),
        m.FetchArchive("0" * 64, LARGEST, LARGEST),
        m.FetchArchive("../../../etc/passwd", 0, 100),
        m.FetchArchive("a" * 1_000_000, SMALLEST, 1),
        m.Announced(LARGEST),
    ]
    tries: list[_Try] = [(gateway(), one) for one in asks]
    return [*tries, *((wide, one) for one in told)]


def many_workers(attacker: Attacker) -> None:
    """Be thousands of workers on one connection, and thousands that a node holds."""
    ids = itertools.count(50_000)
    for _ in attacker.rounds(0.1):
        peer = zmtp.dial(attacker, role="node")
        if peer is None:
            continue
        workers = [held(next(ids), attacker) for _ in range(MANY_WORKERS)]
        attacker.counts["a node with 2,000 workers"] += peer.hello(node("many", *workers, slots=MANY_WORKERS))
        for _ in range(MANY_WORKERS):
            if attacker.is_over or not peer.say(worker(next(ids), attacker, name="many")):
                break
            attacker.counts["workers"] += 1
        peer.close()


def many_nodes_of_one_name(attacker: Attacker) -> None:
    """Be a thousand nodes of one name."""
    nodes: list[zmtp.Peer] = []
    for _ in attacker.rounds():
        peer = zmtp.dial(attacker, role="node")
        if peer is None:
            continue
        peer.say(node("many", slots=1))
        attacker.counts["nodes"] += 1
        nodes.append(peer)
        if len(nodes) > MANY_NODES:
            nodes.pop(0).close()
    for peer in nodes:
        peer.close()


def taken_workers(attacker: Attacker) -> None:
    """Name the worker that answers honest requests as one of a node of the attacker's own, and be it."""
    mine = m.HeldWorker(attacker.target.worker, "echo", "1.0", _archive_of_echo(attacker), "cpu", 1)
    hello = m.HelloWorker(zmtp.PROTOCOL, mine.worker_id, "node", "echo", "1.0", mine.archive, "cpu", 1)
    before = _workers_of_echo(attacker)
    for number in attacker.rounds(0.2):
        peer = zmtp.dial(attacker, role="node")
        if peer is None:
            continue
        if number % 2:
            peer.hello(node("thief", mine, slots=4))
            peer.say(m.NodeBeat(()))
            peer.say(m.WorkerExited(mine.worker_id, 1, None, "taken", False, ()))
        elif peer.hello(hello):
            attacker.breach("an attacker was taken for the worker of another node")
        attacker.counts["claims of another's worker"] += 1
        peer.close()
        if (now := _workers_of_echo(attacker)) != before:
            attacker.breach(f"the worker was taken from its node: {before}, then {now}")


def _workers_of_echo(attacker: Attacker) -> list[tuple[str, str]]:
    """Read which workers answer honest requests: their ids, and since when."""
    answer = attacker.read("/models/echo")
    found = json.loads(answer)[0]["workers"] if answer else []
    return [(one["id"], one["startTime"]) for one in found]


def _archive_of_echo(attacker: Attacker) -> str:
    return model_archive.sha256_of(Path(attacker.target.store, "echo.mar"))


def large_heads(attacker: Attacker) -> None:
    """Send heads of 8 MB: as many small values as fit, which cost most to read."""
    peer: zmtp.Peer | None = None
    number = 0
    # 90,000 arrays of arrays of small numbers, below the limit of an array.
    row = msgpack.packb([0] * 85)
    rows = b"\x91\xdd" + (HEAD_BYTES // len(row)).to_bytes(4, "big") + row * (HEAD_BYTES // len(row))
    for _ in attacker.rounds():
        if peer is None or peer.line.is_closed:
            hello: m.Hello = gateway() if number % 2 else node("heads", slots=1)
            peer = zmtp.dial(attacker, role=zmtp.role_of(hello))
            if peer is None:
                continue
            peer.hello(hello)
        kind = (45, 41, 22, 23, 21)[number % 5]
        number += 1
        peer.send(codec.PREFIX.pack(codec.WIRE_VERSION, kind, 0, peer.epoch) + rows)
        attacker.counts["heads of 8 MB"] += 1
    if peer is not None:
        peer.close()


def large_values(attacker: Attacker) -> None:
    """Send a wrong value of 7 MB, which no log or answer may repeat."""
    bad = "v" * VALUE_BYTES
    for number in attacker.rounds():
        hello: m.Hello = gateway() if number % 2 else node("values", slots=1)
        peer = zmtp.dial(attacker, role=zmtp.role_of(hello))
        if peer is None:
            continue
        if not peer.hello(hello):
            attacker.counts["no welcome"] += 1
        kind, value = (
            (24, [1, "echo.mar", bad, bad]),
            (42, [1, bad]),
            (45, [bad, [], None]),
            (28, [1, bad, None]),
        )[number % 4]
        # Some can be read and name what isn't there; others have the value in the place of another.
        peer.send(codec.PREFIX.pack(codec.WIRE_VERSION, kind, 0, peer.epoch) + msgpack.packb(value))
        attacker.counts["values of 7 MB"] += 1
        peer.line.has_news(0.5)
        peer.line.receive()
        peer.close()


def unknown_workers(attacker: Attacker) -> None:
    """Beat with a thousand workers that nobody knows, and read no answer."""
    peer: zmtp.Peer | None = None
    ids = itertools.count(1_000_000)
    for _ in attacker.rounds():
        if peer is None or peer.line.is_closed:
            peer = zmtp.dial(attacker, role="node", receive_bytes=4096)
            if peer is None or not peer.hello(node("beats", slots=1)):
                peer = None
                pause(0.2)
                continue
        if peer.say(m.NodeBeat(tuple((next(ids), 1) for _ in range(UNKNOWN_WORKERS)))):
            attacker.counts["beats"] += 1
    if peer is not None:
        peer.close()
