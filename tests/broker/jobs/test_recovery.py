"""After a broker's restart: what workers hold or have answered isn't run again, nothing waits for ever."""

import pytest

from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import messages as m

SETTLE_S = 5.0
OLD_LEASE = 1 << 32 | 7


class Restarted:
    """A rig whose broker was restarted while a worker ran job 1; the gateway is back, and sends it again."""

    def __init__(self, config: ModelConfig | None = None, attempt_limit: int = 2) -> None:
        self.rig = rig = Rig(settings(settle_s=SETTLE_S, attempt_limit=attempt_limit))
        rig.ready_rig(config=config)
        record = next(iter(rig.core.catalog))
        worker = next(iter(rig.core.fleet.workers.values()))
        claim = rig.core.workers._claims.make(worker.worker_id, worker.key, record.archive)
        self.held = m.HeldWorker(worker.worker_id, "m", "1.0", record.archive, "cpu", 1, claim)
        self.worker = b"w-%d" % worker.worker_id
        rig.pass_time(10)  # the node is remembered
        rig.restart()
        rig.join_gateway()

    def submit(self, *jobs: int, sequence: str = "") -> None:
        items = tuple(m.SubmitItem(job, "m", None, False, b"meta", sequence=sequence) for job in jobs)
        self.rig.say(GATEWAY, m.Submit(items, m.HELD, 1, again=True))

    def node_comes_back(self) -> None:
        self.rig.join_node(NODE, workers=(self.held,))

    def worker_comes_back(self, *leases: m.HeldLease) -> m.Welcome:
        one = self.held
        hello = m.HelloWorker(
            m.PROTOCOL_VERSION, one.worker_id, NODE.decode(), "m", "1.0", one.archive, "cpu", 1, one.claim,
            held=leases, next_serial=5,
        )  # fmt: skip
        self.rig.say(self.worker, hello)
        return self.rig.only(self.worker, m.Welcome)

    def complete(self, lease: int, serial: int, *, streamed: int = 0) -> None:
        done = m.Completed(lease, 1, (m.CompletedItem(200, b"answer"),), streamed, serial)
        self.rig.say(self.worker, done)

    def answers(self) -> list[tuple[int, bytes]]:
        taken = self.rig.take(GATEWAY, m.Answered)
        return [(item.job, item.meta) for answered in taken for item in answered.items]


def lease(*, is_answered: bool = False, streamed: int = 0, number: int = OLD_LEASE) -> m.HeldLease:
    return m.HeldLease(number, is_answered, False, streamed, (m.HeldJob(GATEWAY, 1),))


def test_a_job_that_a_worker_runs_is_answered_by_that_worker_and_not_handed_out() -> None:
    made = Restarted()
    made.submit(1)
    made.node_comes_back()
    assert made.worker_comes_back(lease()).keeps_leases
    assert not made.rig.take(made.worker, m.Assign)
    made.complete(OLD_LEASE, 5)
    assert made.answers() == [(1, b"answer")]
    assert not made.rig.take(made.worker, m.Assign)


def test_a_job_that_a_worker_has_answered_is_answered_from_there_once_its_gateway_wants_it() -> None:
    made = Restarted()
    made.node_comes_back()
    made.worker_comes_back(lease(is_answered=True))
    assert not made.rig.take(made.worker, m.AnswerAgain), "its gateway may have had the answer"
    made.submit(1)
    assert made.rig.only(made.worker, m.AnswerAgain).leases == (OLD_LEASE,)
    made.complete(OLD_LEASE, 5)
    assert made.answers() == [(1, b"answer")]
    assert not made.rig.take(made.worker, m.Assign)


def test_a_worker_is_asked_for_its_answer_until_it_gives_it() -> None:
    made = Restarted()
    made.node_comes_back()
    made.worker_comes_back(lease(is_answered=True))
    made.submit(1)
    made.rig.take(made.worker, m.AnswerAgain)  # which is lost
    made.rig.pass_time(2)
    assert 3 <= len(made.rig.take(made.worker, m.AnswerAgain)) <= 5
    made.complete(OLD_LEASE, 5)
    assert made.answers() == [(1, b"answer")]
    made.rig.pass_time(2)
    assert not made.rig.take(made.worker, m.AnswerAgain)


def test_an_answer_that_comes_before_its_gateway_is_kept_for_it() -> None:
    made = Restarted()
    made.node_comes_back()
    made.worker_comes_back(lease())
    made.complete(OLD_LEASE, 5)
    assert made.answers() == []
    made.submit(1)
    assert made.answers() == [(1, b"answer")]


def test_parts_come_with_the_answer_and_an_answer_that_lacks_some_is_an_error() -> None:
    made = Restarted()
    made.submit(1)
    made.node_comes_back()
    made.worker_comes_back(lease())
    made.rig.say(made.worker, m.Streamed(OLD_LEASE, (m.StreamedItem(0, b"part"),), 0, 5))
    made.complete(OLD_LEASE, 6, streamed=1)
    assert made.answers() == [(1, b"part"), (1, b"answer")]
    broken = Restarted()
    broken.submit(1)
    broken.node_comes_back()
    broken.worker_comes_back(lease(streamed=1))
    broken.complete(OLD_LEASE, 5, streamed=1)
    assert broken.rig.only(GATEWAY, m.Refused).items[0].error == "WorkerDied"


def test_what_no_worker_has_is_handed_out_as_soon_as_all_are_back() -> None:
    made = Restarted()
    made.submit(1)
    made.node_comes_back()
    assert not made.worker_comes_back().keeps_leases
    assert len(made.rig.only(made.worker, m.Assign).items) == 1


def test_a_job_waits_for_a_node_no_longer_than_settle_s() -> None:
    made = Restarted()
    made.submit(1)
    made.rig.join_node(b"other")
    assert made.rig.core.early.waiting
    made.rig.pass_time(SETTLE_S + 1)
    assert not made.rig.core.early.waiting
    assert made.rig.core.gateways[GATEWAY].jobs


def test_a_job_whose_worker_dies_meanwhile_is_handed_out() -> None:
    made = Restarted()
    made.submit(1)
    made.node_comes_back()
    made.worker_comes_back(lease())
    made.rig.say(NODE, m.WorkerExited(made.held.worker_id, None, 9, "killed", False, ()))
    assert not made.rig.core.early.waiting
    assert made.rig.core.gateways[GATEWAY].jobs


def test_what_is_lost_with_its_worker_after_the_restart_has_used_up_a_try() -> None:
    made = Restarted()
    made.submit(1)
    made.node_comes_back()
    made.worker_comes_back(lease())
    made.rig.exit_worker(made.held.worker_id, of_itself=False)
    made.rig.pass_time(5)
    (worker,) = made.rig.start_workers()
    assert made.rig.attempt(made.rig.only(worker, m.Assign)) == 2
    made.rig.exit_worker(int(worker[2:]), of_itself=False)
    assert [item.error for item in made.rig.only(GATEWAY, m.Refused).items] == ["WorkerDied"]


def test_with_one_try_what_is_lost_with_its_worker_after_the_restart_is_not_run_again() -> None:
    made = Restarted(attempt_limit=1)
    made.submit(1)
    made.node_comes_back()
    made.worker_comes_back(lease())
    made.rig.exit_worker(made.held.worker_id)
    made.rig.pass_time(5)
    assert [item.error for item in made.rig.only(GATEWAY, m.Refused).items] == ["WorkerDied"]


def test_a_sequence_is_not_run_again_that_is_lost_with_its_worker_after_the_restart() -> None:
    made = Restarted(ModelConfig(sequence_batching=True, sequence_max_idle_ms=60_000))
    made.submit(1, sequence="s")
    made.node_comes_back()
    made.worker_comes_back(lease())
    made.rig.exit_worker(made.held.worker_id)
    made.rig.pass_time(5)
    assert [item.error for item in made.rig.only(GATEWAY, m.Refused).items] == ["WorkerDied"]


def test_a_client_that_leaves_takes_its_waiting_job_along() -> None:
    made = Restarted()
    made.submit(1)
    made.rig.say(GATEWAY, m.Cancel((1,)))
    assert not made.rig.core.early.waiting


def test_a_new_job_waits_for_nobody() -> None:
    made = Restarted()
    made.rig.say(GATEWAY, m.Submit((m.SubmitItem(2, "m", None, False, b""),), 1, 1))
    assert list(made.rig.core.gateways[GATEWAY].jobs) == [2]


def test_a_new_job_of_a_sequence_waits_behind_those_that_came_again() -> None:
    made = Restarted(ModelConfig(sequence_batching=True, sequence_max_idle_ms=60_000))
    made.submit(1, 2, sequence="s")
    for job, sequence in ((3, "s"), (4, "t")):
        item = m.SubmitItem(job, "m", None, False, b"meta-%d" % job, sequence=sequence)
        made.rig.say(GATEWAY, m.Submit((item,), 0, job))
    made.node_comes_back()
    made.worker_comes_back()
    order: list[int] = []
    while batches := made.rig.take(made.worker, m.Assign):
        for number, batch in enumerate(batches, start=len(order)):
            order += [item.job for item in batch.items]
            made.complete(batch.lease, 5 + number)
    assert [job for job in order if job != 4] == [1, 2, 3]
    assert order[0] == 4, "another sequence waits for nobody"


@pytest.mark.parametrize("is_answered", [True, False])
def test_what_nobody_claims_is_forgotten(is_answered: bool) -> None:
    made = Restarted()
    made.node_comes_back()
    made.worker_comes_back(lease(is_answered=is_answered))
    if not is_answered:
        made.complete(OLD_LEASE, 5)
    made.rig.leases[made.worker] = []
    made.rig.pass_time(100)
    recovery = made.rig.core.jobs.recovery
    kept = recovery.leases, recovery._answers, recovery._by_job, recovery._bytes
    assert not any(kept)


def test_leases_of_this_broker_are_not_a_workers_to_keep() -> None:
    made = Restarted()
    made.node_comes_back()
    assert not made.worker_comes_back(lease(number=2 << 32 | 1)).keeps_leases
