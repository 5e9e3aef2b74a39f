"""Clients that wait for so long only."""

from dataclasses import replace

from tests.broker.jobs.test_jobs import answers, refusals
from tests.broker.rig import GATEWAY, Rig
from torchrelay.broker.core.states import JobState
from torchrelay.broker.models.records import Prepared
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.settings import LoadAtStart
from torchrelay.shared.wire import messages as m


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
