"""Jobs as the machine has them ended: by their answers, their refusals, and the end of their worker."""

from tests.broker.rig import GATEWAY, NODE, Rig
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import messages as m

CONTINUOUS = ModelConfig(continuous_batching=True)
ASYNC = ModelConfig(async_communication=True)


def answers(rig: Rig, gateway: bytes = GATEWAY) -> list[m.AnsweredItem]:
    return [item for message in rig.take(gateway, m.Answered) for item in message.items]


def refusals(rig: Rig, gateway: bytes = GATEWAY) -> list[m.RefusedItem]:
    return [item for message in rig.take(gateway, m.Refused) for item in message.items]


def test_a_worker_told_to_drain_ends_once_all_its_leases_have() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=ASYNC)
    rig.submit(1, 2)
    first, second = rig.take(worker, m.Assign)
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 0, 0, synchronous=False))
    rig.complete(worker, second)
    rig.pass_time(1)
    assert not rig.take(NODE, m.StopWorker)
    rig.complete(worker, first)
    rig.only(NODE, m.StopWorker)
