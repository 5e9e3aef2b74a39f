"""What becomes of requests that ran on a worker that ended, and of the worker's version."""

import pytest

from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.broker.jobs import batching
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import messages as m

POISON = b"poison"


def answered(rig: Rig) -> list[int]:
    return [item.job for message in rig.take(GATEWAY, m.Answered) for item in message.items]


def refused(rig: Rig) -> list[tuple[int, str]]:
    return [(item.job, item.error) for message in rig.take(GATEWAY, m.Refused) for item in message.items]


class Host:
    """A node whose workers end when they run POISON, and answer everything else at once."""

    def __init__(self, rig: Rig, workers: list[bytes], *, poison: bytes = POISON) -> None:
        self.rig = rig
        self.workers = list(workers)
        self.poison = poison
        self.ended = 0
        #: Contents of the batches that were run, and of those that ended a worker.
        self.batches: list[list[int]] = []
        self.fatal: list[list[int]] = []

    def run(self, rounds: int = 40, *, starts: bool = True) -> None:
        """Let workers run what they have, and new ones come up."""
        for _ in range(rounds):
            if starts:
                self.workers += self.rig.start_workers()
            for worker in list(self.workers):
                for batch in self.rig.take(worker, m.Assign):
                    if worker in self.workers:
                        self._run(worker, batch)
            self.rig.pass_time(0.05)

    def _run(self, worker: bytes, batch: m.Assign) -> None:
        jobs = [int(item.meta.split(b"id-")[1].split(b"\x90")[0].split(b"\x91")[0]) for item in batch.items]
        self.batches.append(jobs)
        if any(self.poison in item.meta for item in batch.items):
            self.fatal.append(jobs)
            self.ended += 1
            self.workers.remove(worker)
            self.rig.exit_worker(int(worker[2:]), reason="killed by signal 11", signal=11)
        else:
            self.rig.complete(worker, batch)


def host(workers: int = 2, rig: Rig | None = None, **fields: object) -> tuple[Rig, Host]:
    rig = rig or Rig()
    return rig, Host(rig, rig.ready_rig(workers=workers, **fields))


def fill(rig: Rig, jobs: range) -> None:
    for job in jobs:
        rig.submit_content(job, content=b"content %d" % job)


@pytest.mark.parametrize("workers", [1, 2])
def test_of_a_lost_batch_one_request_is_refused_and_the_others_are_answered(workers: int) -> None:
    rig, node = host(workers, batch_size=8, max_batch_delay_ms=10)
    fill(rig, range(1, 4))
    rig.submit_content(4, content=POISON)
    fill(rig, range(5, 9))
    node.run()
    assert refused(rig) == [(4, "WorkerDied")]
    assert sorted(answered(rig)) == [1, 2, 3, 5, 6, 7, 8]
    assert node.fatal == [[1, 2, 3, 4, 5, 6, 7, 8], [4]]


def test_suspects_are_run_alone_until_it_is_found_and_those_lost_with_it_are_cleared_then() -> None:
    rig, node = host(batch_size=8, max_batch_delay_ms=10)
    fill(rig, range(1, 3))
    rig.submit_content(3, content=POISON)
    fill(rig, range(4, 9))
    node.run()
    assert node.batches[1:4] == [[1], [2], [3]]
    assert [job for batch in node.batches[4:] for job in batch] == [4, 5, 6, 7, 8]
    assert len(node.batches[4:]) < 5


def test_a_quarantined_content_is_refused_at_once_with_the_reason_and_harms_nobody() -> None:
    rig, node = host()
    rig.submit_content(1, content=POISON)
    node.run()
    (first,) = rig.take(GATEWAY, m.Refused)[0].items
    assert (first.error, first.message) == ("WorkerDied", "Worker died.")
    assert first.details.startswith("killed by signal 11 (in 2 tries)")
    (report,) = [report for report in rig.reports if report.event == "job.quarantined"]
    assert (report.facts["model"], report.facts["request"], report.facts["workers_lost"]) == ("m", "id-1", 2)
    rig.submit_content(2, content=POISON)
    (again,) = rig.take(GATEWAY, m.Refused)[0].items
    assert again.error == "RequestQuarantined"
    assert "signal 11" in again.details
    assert "id-1" in again.details
    assert node.ended == 2


def test_a_quarantine_ends_in_its_time_and_with_a_new_archive() -> None:
    rig, node = host(rig=Rig(settings(quarantine_s=100)))
    rig.submit_content(1, content=POISON)
    node.run()
    rig.pass_time(95)
    rig.submit_content(2, content=POISON)
    assert [error for _, error in refused(rig)] == ["WorkerDied", "RequestQuarantined"]
    rig.pass_time(10)
    rig.submit_content(3, content=POISON)
    assert refused(rig) == []
    node.run()
    assert refused(rig) == [(3, "WorkerDied")]
    rig.say(GATEWAY, m.UnregisterModel(2, "m", None))
    rig.pass_time(1)
    rig.register()
    rig.submit_content(4, content=POISON)
    assert refused(rig) == []


def test_what_ran_beside_others_twice_has_one_more_try_alone_and_no_fourth() -> None:
    rig = Rig(settings(quarantine_s=0))
    (worker,) = rig.ready_rig(batch_size=4, max_batch_delay_ms=10, response_timeout_s=300)
    fill(rig, range(1, 5))
    rig.pass_time(0.1)
    tries: list[tuple[int, int]] = []
    while rig.core.gateways[GATEWAY].jobs:
        for batch in rig.take(worker, m.Assign):
            tries.append((len(batch.items), rig.attempt(batch)))
            rig.pass_time(80 if len(tries) == 1 else 1)  # after which suspects are not run one by one
            rig.exit_worker(int(worker[2:]))
            rig.pass_time(1)
        workers = rig.start_workers()
        worker = workers[0] if workers else worker
        rig.pass_time(1)
    assert tries == [(4, 1), (2, 2), (1, 3), (1, 3), (1, 2), (1, 2)]
    assert [error for _, error in refused(rig)] == ["WorkerDied"] * 4


def test_a_content_that_ends_a_worker_before_its_last_answer_has_left_is_found_all_the_same() -> None:
    rig, node = host(workers=1)
    rig.submit_content(1, content=b"known")
    (first,) = rig.take(node.workers[0], m.Assign)
    rig.pass_time(0.01)  # how long one takes is known then, and short
    rig.complete(node.workers[0], first)
    rig.submit_content(2, content=b"before")
    rig.submit_content(3, content=POISON)
    batches = rig.take(node.workers[0], m.Assign)
    assert [len(batch.items) for batch in batches] == [1, 1], "the second was not sent ahead"
    rig.exit_worker(9000, reason="killed by signal 11", signal=11)
    node.workers.clear()
    node.run()
    assert refused(rig) == [(3, "WorkerDied")]
    assert answered(rig) == [1, 2]
    rig.submit_content(4, content=POISON)
    assert refused(rig) == [(4, "RequestQuarantined")]


def test_without_a_quarantine_a_content_is_tried_each_time_it_comes() -> None:
    rig, node = host(rig=Rig(settings(quarantine_s=0)))
    for job in (1, 2):
        rig.submit_content(job, content=POISON)
        node.run()
    assert refused(rig) == [(1, "WorkerDied"), (2, "WorkerDied")]
    assert node.ended >= 3


def test_the_same_content_costs_two_workers_however_many_requests_have_it() -> None:
    rig, node = host(workers=3)
    rig.submit_content(*range(1, 10), content=POISON)
    node.run()
    outcomes = refused(rig)
    assert sorted(job for job, _ in outcomes) == list(range(1, 10))
    assert node.ended <= 3  # each of the three may be running it before the first has ended
    assert [error for _, error in outcomes].count("WorkerDied") <= 3


def test_a_content_that_comes_while_its_like_is_suspect_waits_and_is_answered_if_that_is() -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2)
    rig.submit_content(1, content=b"same")
    (holder,) = [peer for peer in (one, two) if rig.take(peer, m.Assign)]
    other = two if holder == one else one
    rig.exit_worker(int(holder[2:]))
    rig.submit_content(2, content=b"same")
    rig.submit_content(3, content=b"another")
    batch = rig.only(other, m.Assign)
    assert b"another" in batch.items[0].meta
    rig.complete(other, batch)
    (new,) = rig.start_workers()
    node = Host(rig, [other, new])
    node.run()
    assert answered(rig) == [3, 1, 2]
    assert not rig.core.jobs.queues["m", "1.0"].suspicions.known


def test_a_worker_killed_by_an_operator_costs_its_requests_nothing_but_time() -> None:
    rig = Rig()
    workers = rig.ready_rig(workers=2, batch_size=4, max_batch_delay_ms=10)
    fill(rig, range(1, 5))
    (holder,) = [peer for peer in workers if rig.take(peer, m.Assign)]
    workers.remove(holder)
    rig.exit_worker(int(holder[2:]))
    Host(rig, workers).run()
    assert sorted(answered(rig)) == [1, 2, 3, 4]
    assert refused(rig) == []
    assert not rig.core.jobs.queues["m", "1.0"].suspicions.known


def test_workers_killed_from_outside_twice_in_a_row_have_no_content_refused() -> None:
    rig, node = host()
    rig.submit_content(1, content=b"what everybody asks")
    for _ in range(2):
        node.workers += rig.start_workers()
        (holder,) = [peer for peer in node.workers if rig.take(peer, m.Assign)]
        node.workers.remove(holder)
        rig.exit_worker(int(holder[2:]))
    assert refused(rig) == [(1, "WorkerDied")]
    rig.submit_content(2, content=b"what everybody asks")
    node.run()
    assert answered(rig) == [2]
    assert not rig.core.jobs.queues["m", "1.0"].suspicions.known


@pytest.mark.parametrize("how", ["told to stop", "node lost", "stuck", "said goodbye"])
def test_ends_that_are_no_requests_doing_put_nobody_under_suspicion(how: str) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(response_timeout_s=5)
    rig.submit_content(1, content=b"x")
    rig.only(worker, m.Assign)
    match how:
        case "told to stop":
            rig.exit_worker(int(worker[2:]), reason="its launcher exited with 1", of_itself=False)
        case "node lost":
            rig.lose_node(NODE)
            rig.pass_time(4)
        case "stuck":
            rig.pass_time(6)
        case "said goodbye":
            rig.say(worker, m.Bye())
    queue = rig.core.jobs.queues["m", "1.0"]
    assert not queue.suspicions.known
    assert not queue.suspects


def test_a_request_whose_answer_had_begun_is_quarantined_when_it_comes_again() -> None:
    rig, node = host()
    for job in (1, 2):
        rig.submit_content(job, content=POISON)
        node.workers += rig.start_workers()
        holder, batch = next((w, found[0]) for w in node.workers if (found := rig.take(w, m.Assign)))
        rig.stream(holder, batch, b"part", 0)
        node.workers.remove(holder)
        rig.exit_worker(int(holder[2:]), signal=11)
    assert refused(rig) == [(1, "WorkerDied"), (2, "WorkerDied")]
    rig.submit_content(3, content=POISON)
    assert refused(rig) == [(3, "RequestQuarantined")]


def test_a_client_that_leaves_before_its_request_ends_the_worker_is_remembered() -> None:
    rig, node = host()
    for job in (1, 2):
        rig.submit_content(job, content=POISON)
        rig.say(GATEWAY, m.Cancel((job,)))
        node.run()
    assert node.ended == 2
    rig.submit_content(3, content=POISON)
    assert refused(rig) == [(3, "RequestQuarantined")]


def test_in_sequences_a_content_is_quarantined_as_well() -> None:
    config = ModelConfig(sequence_batching=True, sequence_max_idle_ms=60_000)
    rig, node = host(config=config, batch_size=4)
    for job in (1, 2):
        rig.submit_content(job, content=POISON, sequence=f"s{job}")
        node.run()
    assert [error for _, error in refused(rig)] == ["WorkerDied", "WorkerDied"]
    rig.submit_content(3, content=POISON, sequence="s3")
    assert refused(rig) == [(3, "RequestQuarantined")]


def test_a_suspected_content_runs_without_the_jobs_of_other_sequences() -> None:
    config = ModelConfig(sequence_batching=True, sequence_max_idle_ms=60_000)
    rig, node = host(workers=1, config=config, batch_size=4, max_batch_delay_ms=10)
    for number in range(2):
        first = 10 * number
        for job in range(first + 1, first + 4):
            content = POISON if job == first + 2 else b"content %d" % job
            rig.submit_content(job, content=content, sequence=f"s{job}")
        node.run()
    assert node.fatal == [[1, 2, 3], [12]]
    assert sorted(answered(rig)) == [11, 13]
    rig.submit_content(20, content=POISON, sequence="s20")
    assert refused(rig)[-1] == (20, "RequestQuarantined")


@pytest.mark.parametrize(
    "config", [ModelConfig(continuous_batching=True), ModelConfig(async_communication=True)]
)
def test_of_jobs_that_run_concurrently_the_suspects_have_a_worker_to_themselves(config: ModelConfig) -> None:
    rig = Rig()
    one, two = rig.ready_rig(workers=2, config=config, batch_size=4)
    fill(rig, range(1, 5))
    held = {peer: rig.take(peer, m.Assign) for peer in (one, two)}
    assert [len(leases) for leases in held.values()] == [2, 2]
    rig.exit_worker(int(one[2:]))
    (new,) = rig.start_workers()
    fill(rig, range(5, 7))
    suspects = [peer for peer in (two, new) if any(job.suspicion for lease in
                rig.core.fleet.workers[int(peer[2:])].leases for job in lease.jobs)]  # fmt: skip
    (kept,) = suspects
    assert len(rig.take(kept, m.Assign)) == 1
    assert len(rig.core.fleet.workers[int(kept[2:])].leases) == 1


def test_one_worker_serves_the_others_while_another_is_used_for_suspects() -> None:
    rig, node = host(workers=2)
    rig.submit_content(1, content=b"slow")
    (holder,) = [peer for peer in node.workers if rig.take(peer, m.Assign)]
    node.workers.remove(holder)
    rig.exit_worker(int(holder[2:]))
    (other,) = node.workers
    rig.pass_time(1)
    assert not rig.take(other, m.Assign)  # the only one that is ready serves the others
    (new,) = rig.start_workers()
    (kept,) = [peer for peer in (other, new) if rig.take(peer, m.Assign)]
    fill(rig, range(2, 5))
    serving = other if kept == new else new
    assert not rig.take(kept, m.Assign)
    for _ in range(3):
        rig.complete(serving, rig.only(serving, m.Assign))
    assert answered(rig) == [2, 3, 4]


def test_a_suspect_waits_for_a_second_worker_no_longer_than_half_its_time() -> None:
    rig, node = host(workers=2, response_timeout_s=60)
    rig.submit_content(1, content=b"x")
    (holder,) = [peer for peer in node.workers if rig.take(peer, m.Assign)]
    node.workers.remove(holder)
    rig.exit_worker(int(holder[2:]))
    (other,) = node.workers
    rig.pass_time(28)
    assert not rig.take(other, m.Assign)
    rig.pass_time(3)
    rig.complete(other, rig.only(other, m.Assign))
    assert answered(rig) == [1]


def test_a_suspect_does_not_wait_for_a_worker_that_streams_while_another_is_idle() -> None:
    rig = Rig()
    one, two = rig.ready_rig(
        workers=2, config=ModelConfig(continuous_batching=True), batch_size=4, response_timeout_s=60
    )
    fill(rig, range(1, 3))
    held = {peer: rig.only(peer, m.Assign) for peer in (one, two)}
    rig.complete(one, held[one])
    fill(rig, range(3, 4))
    long = rig.only(one, m.Assign)
    rig.exit_worker(int(two[2:]))
    (new,) = rig.start_workers()
    for _ in range(20):
        rig.stream(one, long, b"part", 0)
        rig.pass_time(1)
    rig.complete(new, rig.only(new, m.Assign))
    assert 2 in answered(rig)


def test_suspects_that_have_waited_long_are_run_in_halves() -> None:
    counts = [batching.isolated_count(suspects=9, waited_share=share) for share in (0.0, 0.2, 0.3, 0.9)]
    assert counts == [1, 1, 5, 5]
    assert batching.isolated_count(suspects=1, waited_share=0.9) == 1


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("is_continuous", [False, True])
def test_suspects_that_have_waited_long_are_no_more_than_a_worker_takes(
    batch_size: int, is_continuous: bool
) -> None:
    rig, node = host(
        workers=4, batch_size=batch_size, max_batch_delay_ms=1, response_timeout_s=40,
        config=ModelConfig(continuous_batching=is_continuous),
    )  # fmt: skip
    fill(rig, range(1, 9))
    for worker in node.workers:
        rig.take(worker, m.Assign)
        rig.exit_worker(int(worker[2:]))
    node.workers.clear()
    rig.pass_time(15)
    node.run()
    assert sorted(answered(rig)) == list(range(1, 9))
    assert max(map(len, node.batches)) == (1 if is_continuous else batch_size)


def test_with_tickets_a_worker_is_free_again_once_it_has_run_the_last_suspect() -> None:
    rig, node = host(workers=1, config=ModelConfig(use_job_ticket=True))
    rig.submit_content(1, content=b"x")
    rig.exit_worker(int(node.workers.pop()[2:]))
    rig.pass_time(2)
    node.run()
    rig.submit_content(2, content=b"y")
    node.run()
    assert (answered(rig), refused(rig)) == ([1, 2], [])


def test_with_tickets_an_idle_worker_is_not_taken_by_suspects_that_wait_for_another() -> None:
    rig, node = host(workers=2, config=ModelConfig(use_job_ticket=True))
    rig.submit_content(1, content=b"x")
    (holder,) = [peer for peer in node.workers if rig.take(peer, m.Assign)]
    node.workers.remove(holder)
    rig.exit_worker(int(holder[2:]))
    rig.submit_content(2, content=b"y")
    node.run(starts=False)
    assert (answered(rig), refused(rig)) == ([2], [])


def test_suspects_that_are_cleared_wait_again_by_their_age() -> None:
    rig, node = host(workers=1, response_timeout_s=60)
    rig.submit_content(1, content=b"x")
    rig.exit_worker(int(node.workers.pop()[2:]))
    fill(rig, range(2, 7))
    rig.pass_time(10)
    rig.submit_content(7, 8, 9, content=b"x")
    (worker,) = rig.start_workers()
    queue = rig.core.jobs.queues["m", "1.0"]
    while queue.suspects:
        rig.pass_time(6)
        rig.complete(worker, rig.only(worker, m.Assign))
    assert len(queue.jobs) >= 3
    arrivals = [job.arrived_at for job in queue.jobs]
    assert arrivals == sorted(arrivals)
    rig.exit_worker(int(worker[2:]))
    rig.pass_time(1060 - rig.now + 0.5)
    assert all(job.expires_at > rig.now for job in queue.jobs)


# The version


def test_a_version_that_answers_others_is_restarted_at_once_whatever_is_sent_to_it() -> None:
    rig, node = host(workers=2)
    for number in range(20):
        fill(rig, range(100 * number + 1, 100 * number + 6))
        rig.submit_content(100 * number, content=POISON + b" %d" % number)
        fill(rig, range(100 * number + 6, 100 * number + 10))
        node.run(6)
    node.run()
    assert node.ended == 40
    assert rig.core.fleet.condition(("m", "1.0")).failures <= 1
    assert [error for _, error in refused(rig)] == ["WorkerDied"] * 20
    assert len(answered(rig)) == 20 * 9


def test_a_version_that_ends_at_everything_backs_off_and_gives_up_as_ever() -> None:
    rig, node = host(workers=1, rig=Rig(settings(restart_window_s=60)))
    node.poison = b""
    for job in range(1, 40):
        rig.submit_content(job, content=b"content %d" % job)
    node.run(2000)
    assert rig.core.fleet.has_given_up(("m", "1.0"))
    assert node.ended < 15
    assert {error for _, error in refused(rig)} <= {"WorkerDied", "ServiceUnavailable"}
    rig.submit_content(100, content=b"other")
    assert refused(rig) == [(100, "ServiceUnavailable")]


def test_a_version_that_cannot_load_any_more_backs_off_though_it_answered_before() -> None:
    rig, node = host(workers=1)
    rig.submit_content(1, content=b"x")
    node.run(3)
    rig.exit_worker(int(node.workers[0][2:]))
    for _ in range(3):
        for order in rig.take(NODE, m.StartWorker):
            rig.exit_worker(order.worker_id, reason="ValueError: no weights")
        rig.pass_time(5)
    assert rig.core.fleet.condition(("m", "1.0")).failures > 1


def test_a_worker_that_ends_while_it_runs_nothing_is_not_excused() -> None:
    rig, node = host(workers=1)
    for _ in range(3):
        rig.submit_content(1, content=b"x")
        node.run(2)
        (worker,) = node.workers
        node.workers.clear()
        rig.exit_worker(int(worker[2:]))
        assert rig.core.fleet.condition(("m", "1.0")).failures == 1
        node.run(40)


def test_what_is_refused_is_shown() -> None:
    rig, node = host()
    rig.submit_content(1, content=POISON)
    node.run()
    rig.submit_content(2, content=POISON)
    rig.say(GATEWAY, m.ReadFleet(7))
    (version,) = rig.only(GATEWAY, m.FleetRead).versions
    (shown,) = version.quarantined
    assert (shown.request_id, shown.reason, shown.workers_lost) == ("id-1", "killed by signal 11", 2)
    assert shown.refused == 1
    assert 290_000 < shown.left_ms <= 300_000
    rig.say(GATEWAY, m.ReadMetrics(8))
    families = {family.name: family for family in rig.only(GATEWAY, m.MetricsRead).families}
    assert [s.value for s in families["torchrelay_quarantined_contents"].samples] == [1.0]


def test_out_of_memory_is_said_of_the_request_that_takes_it() -> None:
    rig, node = host()
    for _ in range(2):
        if not node.ended:
            rig.submit_content(1, content=POISON)
        node.workers += rig.start_workers()
        (holder,) = [peer for peer in node.workers if rig.take(peer, m.Assign)]
        node.workers.remove(holder)
        node.ended += 1
        rig.exit_worker(int(holder[2:]), out_of_memory=True)
    assert refused(rig) == [(1, "OutOfResources")]
