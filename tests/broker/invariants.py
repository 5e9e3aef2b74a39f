"""What must hold of the broker's core after every step, whatever happened."""

from broker.core import BrokerCore
from broker.states import LIVE, JobState, WorkerState


def check(core: BrokerCore) -> None:
    """Assert every invariant; the message names the one that broke."""
    _check_jobs(core)
    _check_leases(core)
    _check_workers(core)


def _check_jobs(core: BrokerCore) -> None:
    queued = [job for queue in core.queues.values() for job in queue.jobs]
    leased = [job for lease in core.leases.values() for job in lease.jobs]
    open_jobs = [job for gateway in core.gateways.values() for job in gateway.jobs.values()]
    assert all(job.state is JobState.QUEUED for job in queued), "a queue holds a job that isn't queued"
    assert len({id(job) for job in queued}) == len(queued), "a job is queued twice"
    running = [job for job in leased if job.state is JobState.RUNNING]
    assert not [job for job in leased if job.state is JobState.QUEUED], "a queued job is leased"
    assert len({id(job) for job in running}) == len(running), "a job has two live leases"
    assert {id(job) for job in queued + running} == {id(job) for job in open_jobs}, (
        "a job that has not ended is in no queue and no lease, or one that has is still held"
    )
    assert core._queued_bytes == sum(job.size for job in queued), "the bytes of the queues are miscounted"
    for queue in core.queues.values():
        assert queue.size == sum(job.size for job in queue.jobs)
    for key, stats in core.stats.versions.items():
        waiting = sum(job.key == key for job in open_jobs)
        assert stats.submitted == waiting + sum(stats.outcomes.values()), (
            f"{key}: submitted {stats.submitted} is not waiting {waiting} + ended {stats.outcomes}"
        )
    assert all(job.attempt <= core.settings.attempt_limit for job in open_jobs), "a job has too many tries"


def _check_leases(core: BrokerCore) -> None:
    held = [lease for worker in core.fleet.workers.values() for lease in worker.leases]
    assert {id(lease) for lease in held} == {id(lease) for lease in core.leases.values()}, (
        "leases on workers and leases in the table differ"
    )
    for worker in core.fleet.workers.values():
        assert len(worker.leases) <= 2, "a worker holds more than two leases"
        for position, lease in enumerate(worker.leases):
            assert lease.worker_id == worker.worker_id, "a lease lies on another worker than it names"
            assert (lease.began_at is not None) == (position == 0), "only the first lease has begun"
            assert len(lease.jobs) >= 1, "a lease without jobs"
            assert not lease.is_describe or len(lease.jobs) == 1, "a describe job has company"
        if worker.leases:
            assert worker.state in (WorkerState.READY, WorkerState.DRAINING, WorkerState.STOPPING)


def _check_workers(core: BrokerCore) -> None:
    fleet = core.fleet
    by_version = {key: fleet.of_version(key) for key in {w.key for w in fleet.workers.values()}}
    assert sum(map(len, by_version.values())) == len(fleet.workers), "the index by version is stale"
    for record in core.catalog:
        live = [worker for worker in fleet.workers.values()
                if worker.key == (record.model, record.version) and worker.state in LIVE]  # fmt: skip
        assert len(live) <= record.max_workers, f"{record.model} has {len(live)} of {record.max_workers}"
    for node in fleet.nodes.values():
        new = [w for w in fleet.of_node(node.peer) if w.state in LIVE]
        assert len(new) <= max(node.slots, len(new) if node.is_leaving else node.slots)
    for worker in fleet.workers.values():
        assert worker.state is not WorkerState.GONE, "a worker that is gone is kept"
        assert worker.state is not WorkerState.READY or worker.peer is not None
