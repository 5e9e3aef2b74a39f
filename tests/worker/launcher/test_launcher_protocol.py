"""What a node and its launcher tell each other."""

import msgspec

from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.redial_policy import BrokerPlace
from torchrelay.worker.launcher import launcher_protocol as protocol

BROKER = BrokerPlace(("tcp://a:7700", "tcp://b:7700"), ("ab" * 32,), "5e" * 32)


def test_a_spec_of_any_size_reaches_the_worker_as_it_was() -> None:
    start = m.StartWorker(
        1, "m", "1.0", "sha", 10, "handler", "cpu", None, 1, metrics_config=b"\xff" * 100_000
    )
    spec = protocol.WorkerSpec(start, "node", BROKER, "/model", 2, variables={"A": "ä"}, packages="/p")
    assert protocol.read_spec(protocol.write_spec(spec)) == spec
    assert BROKER.secret_key not in repr(spec)


def test_every_order_and_report_is_a_packet_of_its_own_kind() -> None:
    for union, values in (
        (protocol.Order, [protocol.Fork(1), protocol.Signal(1, 9)]),
        (protocol.Report, [protocol.Forked(1, 77), protocol.Exited(1, None, 9), protocol.Exited(1, 0, None)]),
    ):
        for value in values:
            packet = msgspec.json.encode(value)
            assert len(packet) < protocol.PACKET_LIMIT_BYTES
            assert msgspec.json.decode(packet, type=union) == value
