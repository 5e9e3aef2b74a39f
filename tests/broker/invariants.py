"""What must hold of the broker's core after every step, whatever happened."""

from collections.abc import Sequence

from torchrelay.broker.core.machine import BrokerCore
from torchrelay.broker.core.states import LIVE, UP, JobState, WorkerState
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.version_workers import VersionWorkers
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.jobs import batching
from torchrelay.broker.jobs.queues import PlainQueue
from torchrelay.broker.jobs.sequences import SequenceQueue
from torchrelay.broker.models.records import VersionRecord


def check(core: BrokerCore) -> None:
    """Assert every invariant; the message names the one that broke."""
    _check_jobs(core)
    _check_leases(core)
    for queue in core.jobs.queues.values():
        if isinstance(queue, SequenceQueue):
            _check_sequences(core, queue)
        elif isinstance(queue, PlainQueue):
            _check_suspects(core, queue)
    _check_workers(core)
    _check_comparisons(core)
    if not core.management.loading:
        waiting = [early for early in core.early.waiting.values() if not early.is_again]
        assert not waiting, "a request waits for a start that is over"


def _check_jobs(core: BrokerCore) -> None:
    queued = [job for queue in core.jobs.queues.values() for job in queue.jobs]
    leased = [job for lease in core.jobs.leases.values() for job in lease.jobs]
    open_jobs = [job for gateway in core.gateways.values() for job in gateway.jobs.values()]
    assert all(job.state is JobState.QUEUED for job in queued), "a queue holds a job that isn't queued"
    assert len({id(job) for job in queued}) == len(queued), "a job is queued twice"
    running = [job for job in leased if job.state is JobState.RUNNING]
    assert not [job for job in leased if job.state is JobState.QUEUED], "a queued job is leased"
    assert len({id(job) for job in running}) == len(running), "a job has two live leases"
    assert {id(job) for job in queued + running} == {id(job) for job in open_jobs}, (
        "a job that has not ended is in no queue and no lease, or one that has is still held"
    )
    assert core.jobs.waiting.queued_bytes == sum(job.size for job in queued), (
        "the bytes of queues are miscounted"
    )
    for key, stats in core.stats.versions.items():
        waiting = sum(job.key == key for job in open_jobs)
        assert stats.submitted == waiting + sum(stats.outcomes.values()), (
            f"{key}: submitted {stats.submitted} is not waiting {waiting} + ended {stats.outcomes}"
        )
    limit = core.settings.attempt_limit
    most = limit + (limit > 1)
    assert all(job.attempt <= most for job in open_jobs), "a job has too many tries"
    assert all(job.attempt <= limit or job.has_spare_try for job in open_jobs), (
        "a job has one try more for nothing"
    )


def in_order_limit(record: VersionRecord) -> int:
    """Return how many batches a worker may have: one that runs, and ahead one, or those of so many jobs."""
    return 1 + max(1, batching.AHEAD_LIMIT_JOBS // record.batch_size)


def _check_leases(core: BrokerCore) -> None:
    held = [lease for worker in core.fleet.workers.values() for lease in worker.leases]
    assert {id(lease) for lease in held} == {id(lease) for lease in core.jobs.leases.values()}, (
        "leases on workers and leases in the table differ"
    )
    for queue in core.jobs.queues.values():
        of_queue = [lease for lease in held if lease.queue is queue]
        assert queue.leases == len(of_queue), "the leases of a queue are miscounted"
    for worker in core.fleet.workers.values():
        record = core.catalog.get(worker.key)
        # One that drains may have got its leases when its version was registered otherwise.
        is_ready = worker.state is WorkerState.READY
        limit = (
            (batching.concurrent_leases(record) or in_order_limit(record)) if record and is_ready else None
        )
        assert limit is None or len(worker.leases) <= limit, f"a worker holds more than {limit} leases"
        for position, lease in enumerate(worker.leases):
            assert lease.worker_id == worker.worker_id, "a lease lies on another worker than it names"
            has_begun = lease.began_at is not None
            assert has_begun == (position == 0 or not lease.is_in_order), "one lease runs, or all do"
            assert len(lease.jobs) >= 1, "a lease without jobs"
            if record and is_ready:
                assert len(lease.jobs) <= record.batch_size, "a batch is larger than batch_size"
            assert not lease.is_describe or len(lease.jobs) == 1, "a describe job has company"
            assert all(job.lease == lease.number for job in lease.jobs if job.state is JobState.RUNNING)
        if worker.leases:
            assert worker.state in (*UP, WorkerState.DRAINING, WorkerState.STOPPING)


def _check_suspects(core: BrokerCore, queue: PlainQueue) -> None:
    assert all(job.suspicion is not None for job in queue.suspects)
    assert all(job.suspicion is None for job in queue.row), "a suspect would go with the others"
    arrivals = [job.arrived_at for job in queue.row]
    assert arrivals == sorted(arrivals), "an older job waits behind a younger one, and expires late"
    used = 0
    for worker in core.fleet.ready(queue.key):
        suspects = [lease for lease in worker.leases if any(job.suspicion for job in lease.jobs)]
        assert not suspects or suspects == worker.leases, "a suspect has company"
        used += bool(suspects)
    assert used <= 1, "suspects use more than one worker"


def _check_sequences(core: BrokerCore, queue: SequenceQueue) -> None:
    ready = {w.worker_id for w in core.fleet.of_version(queue.key) if w.state in UP}
    in_sequences: list[int] = []
    for sequence in queue.sequences.values():
        waiting, running = sequence.waiting, sequence.running
        in_sequences += map(id, waiting)
        assert [job.arrived_at for job in waiting] == sorted(job.arrived_at for job in waiting)
        assert all(job.state is JobState.QUEUED for job in waiting)
        unheard = [job for job in running if not job.parts]
        assert len(unheard) <= 1, "two jobs of a sequence run that have both not begun to answer"
        assert len(running) <= 1 or queue.config.continuous_batching or queue.config.async_communication
        assert sequence.worker_id in ready or sequence.is_closed or sequence.worker_id is None
        assert not running or sequence.worker_id is not None, "it runs nowhere"
        assert not sequence.is_closed or (running and not waiting), "a closed sequence is kept for nothing"
    describes = [job for job in queue.jobs if not job.sequence]
    assert len(in_sequences) + len(describes) == len(queue.jobs), "a job waits in no sequence"


def _check_comparisons(core: BrokerCore) -> None:
    """Assert that every version is compared again that differs from what is wanted."""
    fleet = core.fleet
    compared_again = fleet._comparisons._noted.keys() | fleet._comparisons._unsettled.keys()
    for key in {*core.catalog.versions, *fleet.versions}:
        record = core.catalog.get(key)
        workers = [worker for worker in fleet.of_version(key) if worker.state in LIVE]
        own = [one for one in workers if record and one.archive == record.archive and not one.installs_only]
        if any(fleet.must_move(worker) for worker in own) and not fleet._comparisons.is_for_all:
            assert key in fleet._moving, f"{key} has workers to move of which nobody knows"
        is_as_wanted = record and record.min_workers <= len(own) <= record.max_workers
        has_others = any(record is None or worker.archive != record.archive for worker in workers)
        if (record and not is_as_wanted) or has_others:
            assert fleet._comparisons.is_for_all or key in compared_again, f"{key} is forgotten"


def check_ranks(ranked: VersionWorkers, fleet: Fleet, workers: Sequence[FleetWorker]) -> None:
    """Assert that a version's workers are counted and ranked as they would be if they were looked at anew."""
    anew = VersionWorkers(fleet.late_nodes)
    anew._prove_first = ranked._prove_first
    noted = ranked.touched
    for worker in workers:
        anew.add(worker)
    ranks = [_ranks(anew), _ranks(ranked)]
    for worker in workers:
        worker.touched = noted
    assert ranks[0] == ranks[1], "a change of a worker was not noted"
    assert [w.state for w in workers].count(WorkerState.READY) == ranked.count(WorkerState.READY)
    assert sum(w.state in LIVE and not w.installs_only for w in workers) == ranked.live()
    assert sum(w.state is WorkerState.READY and not w.is_cut for w in workers) == ranked.reachable
    assert fleet.late_nodes.peers <= fleet.nodes.keys(), "a node that is gone counts as late"


def _ranks(ranked: VersionWorkers) -> list[list[tuple[float, int]]]:
    """Return what ranks a version's workers, by row, the last of which is not empty."""
    ranked._settle()
    assert ranked.by_id.keys() == {worker.worker_id for worker in ranked._entered}
    assert not any(ranked._rows[: ranked._lowest]), "a row that counts as empty is not"
    rows = [[(at, number) for at, number, _ in row] for row in ranked._rows]
    while rows and not rows[-1]:
        rows.pop()
    return rows


def _check_workers(core: BrokerCore) -> None:
    fleet = core.fleet
    by_version = {key: fleet.of_version(key) for key in {w.key for w in fleet.workers.values()}}
    for key, workers in by_version.items():
        check_ranks(fleet.versions[key], fleet, workers)
    assert sum(map(len, by_version.values())) == len(fleet.workers), "the index by version is stale"
    for record in core.catalog:
        live = [worker for worker in fleet.workers.values()
                if worker.key == (record.model, record.version) and worker.state in LIVE
                and not worker.installs_only and not fleet.must_move(worker)]  # fmt: skip
        # More may have come with a node: as soon as all of its are known, some are stopped.
        is_seen_to = core.peers.joining or fleet.must_reconcile
        assert is_seen_to or len(live) <= record.max_workers, (
            f"{record.model} has {len(live)} of {record.max_workers}"
        )
    names = [node.name for node in fleet.nodes.values()]
    assert len(names) == len(set(names)), "two nodes have one name"
    for node in fleet.nodes.values():
        new = [w for w in fleet.of_node(node.peer) if w.state in LIVE]
        assert len(new) <= max(node.slots, len(new) if node.is_leaving else node.slots)
    for worker in fleet.workers.values():
        assert worker.state is not WorkerState.GONE, "a worker that is gone is kept"
        assert worker.state not in UP or worker.peer is not None
