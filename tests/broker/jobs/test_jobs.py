"""Jobs as the machine has them ended: by answers, clients' limits, and the end of their worker."""

from dataclasses import replace

from tests.broker.rig import GATEWAY, NODE, Rig
from torchrelay.broker.core.states import JobState
from torchrelay.broker.models.records import Prepared
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.settings import LoadAtStart
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


def test_a_client_hears_at_its_timeout_whether_its_job_waits_or_runs() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=ModelConfig(client_timeout_ms=1000))
    rig.submit(1)
    rig.pass_time(0.6)
    rig.submit(2)
    batch = rig.only(worker, m.Assign)
    rig.pass_time(0.3)
    assert not refusals(rig)
    rig.pass_time(0.2)
    (first,) = refusals(rig)
    assert (first.job, first.error) == (1, "PredictionTimeout")
    assert first.message == "No answer within the model's clientTimeoutInMills of 1000"
    assert rig.only(worker, m.CancelJobs) == m.CancelJobs(batch.lease, (0,))
    rig.pass_time(0.6)
    (second,) = refusals(rig)
    assert second.job == 2
    rig.complete(worker, batch)
    rig.pass_time(1)
    assert not answers(rig)
    assert not rig.take(worker, m.Assign)


def test_a_client_with_less_patience_than_those_before_it_does_not_wait_for_them() -> None:
    rig = Rig()
    rig.join_gateway()
    for config in (None, ModelConfig(client_timeout_ms=500)):
        prepared = rig.archives[rig.archive(config=config)]
        assert isinstance(prepared, Prepared)
        rig.archives["m.mar"] = replace(prepared, archive=f"sha-{config}")  # the second replaces the first
        rig.load_at_start(LoadAtStart("m.mar"))
        rig.feed()
        rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 1, 1, synchronous=False))
        rig.submit(2 if config else 1)
    rig.pass_time(0.6)
    assert [item.job for item in refusals(rig)] == [2]
    (job,) = rig.core.gateways[GATEWAY].jobs.values()
    assert job.number == 1


def test_a_limit_that_has_passed_says_nothing_to_a_job_of_the_same_number() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(config=ModelConfig(client_timeout_ms=1000))
    rig.submit(1)
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.pass_time(0.9)
    rig.submit(1)
    rig.pass_time(0.5)
    assert not refusals(rig)
    (job,) = rig.core.gateways[GATEWAY].jobs.values()
    assert job.state is JobState.RUNNING
