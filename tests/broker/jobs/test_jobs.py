"""Jobs as the machine has them ended: by answers, clients' limits, and the end of their worker."""

from dataclasses import replace

from tests.broker.rig import GATEWAY, NODE, Rig, settings
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


def test_many_jobs_whose_limit_comes_at_once_end_by_one_pass_and_one_message_for_each_batch() -> None:
    rig = Rig(settings(job_queue_size=1000))
    (worker,) = rig.ready_rig(batch_size=8, max_batch_delay_ms=1)
    rig.submit(*range(200), left_ms=500)
    batch = rig.only(worker, m.Assign)
    rig.pass_time(0.5)
    assert sorted(item.job for item in refusals(rig)) == list(range(200))
    assert rig.only(worker, m.CancelJobs) == m.CancelJobs(batch.lease, tuple(range(8)))
    rig.complete(worker, batch)
    assert not answers(rig)


def test_a_job_that_is_tried_again_has_the_time_that_is_left() -> None:
    rig = Rig()
    first, second = rig.ready_rig(workers=2)
    rig.submit(1, left_ms=5000)
    (ran,) = [worker for worker in (first, second) if rig.take(worker, m.Assign)]
    rig.pass_time(2.0)
    rig.exit_worker(int(ran[2:]), of_itself=False)
    (other,) = {first, second} - {ran}
    assert rig.only(other, m.Assign).items[0].left_ms == 3000


def test_a_client_may_come_back_under_the_number_of_one_whose_limit_has_not_come_yet() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1, left_ms=1000)
    rig.say(GATEWAY, m.Cancel((1,)))
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.submit(1)
    rig.pass_time(2.0)
    assert refusals(rig) == []
