"""Answers to questions about the broker's state; reads, never writes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from torchrelay.broker.core.states import LIVE, WorkerState
from torchrelay.broker.core.stats import samples_of
from torchrelay.broker.fleet.fleet import Node, Worker
from torchrelay.broker.jobs.queues import VersionQueue
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m

if TYPE_CHECKING:
    from torchrelay.broker.core.machine import BrokerCore

#: More memory than this, no host has.
MEMORY_LIMIT_MB = 1e12
#: Contents of a version that are shown as quarantined; somebody who sends many sends much the same.
QUARANTINED_SHOWN = 10


def answer(core: BrokerCore, ask: m.Question, now: float) -> m.Reply:
    """Answer a question; an unknown model is refused."""
    try:
        match ask:
            case m.DescribeModel(number, model, version, every):
                catalog = core.catalog
                records = catalog.versions_of(model) if every else [catalog.resolve(model, version)]
                return m.ModelDescribed(number, tuple(version_facts(core, r, now) for r in records))
            case m.ListModels(number, limit, offset):
                entries, next_offset = core.catalog.page(limit, offset)
                return m.ModelsListed(number, tuple(entries), next_offset)
            case m.ReadFleet(number):
                return fleet_facts(core, number, now)
            case m.ReadMetrics(number):
                own = metric_families(core, now) if core.settings.own_metrics else []
                return m.MetricsRead(number, (*core.metrics.families(core.stats, core.wall_ms(now)), *own))
            case m.ReadHealth(number):
                reasons = health_reasons(core, now)
                return m.HealthRead(number, not reasons, core.management.is_starting)
    except errors.RelayError as error:
        return m.AskRefused(ask.ask, error.name, error.message, error.details)


def version_facts(core: BrokerCore, record: VersionRecord, now: float) -> m.VersionFacts:
    """Describe one version."""
    key = (record.model, record.version)
    config = record.config
    queue = core.jobs.queues.get(key)
    oldest = queue.oldest if queue else None
    oldest_s = now - oldest.arrived_at if oldest else 0.0
    return m.VersionFacts(
        model=record.model,
        version=record.version,
        is_default=core.catalog.is_default(record),
        url=record.url,
        runtime=record.runtime,
        min_workers=record.min_workers,
        max_workers=record.max_workers,
        batch_size=record.batch_size,
        max_batch_delay_ms=record.max_batch_delay_ms,
        response_timeout_s=record.response_timeout_s,
        startup_timeout_s=record.startup_timeout_s,
        restart_window_s=_or(config.restart_window_s, core.settings.restart_window_s),
        loaded_at_startup=record.loaded_at_startup,
        queue_depth=len(queue) if queue else 0,
        queue_limit=config.job_queue_size or core.settings.job_queue_size,
        oldest_wait_ms=int(oldest_s * 1000),
        workers=tuple(
            m.WorkerFacts(
                worker.worker_id,
                worker.state.value,
                worker.node_name,
                worker.device,
                worker.pid,
                core.wall_ms(worker.started_at),
                worker.memory_bytes,
                sum(len(lease.jobs) for lease in worker.leases),
                worker.note,
                _gpu_use(core, worker),
            )
            for worker in core.fleet.of_record(record)
        ),
        explanation=core.fleet.explain(record, now),
        last_error=core.fleet.condition(key).last_error,
        client_timeout_ms=config.client_timeout_ms,
        parallel_type=config.parallel_type,
        parallel_level=config.parallel_level,
        device_type=_device_type(core, record),
        device_ids=config.device_ids,
        continuous_batching=config.continuous_batching,
        use_job_ticket=config.use_job_ticket,
        use_venv=config.use_venv,
        sequence_batching=config.sequence_batching,
        sequence_max_idle_ms=config.sequence_max_idle_ms,
        sequence_timeout_ms=config.sequence_timeout_ms,
        # As in TorchServe, which counts sequences only where they may idle.
        max_sequences=config.max_sequences if config.sequence_max_idle_ms else 0,
        max_sequence_queue_jobs=config.max_sequence_queue_jobs if config.sequence_max_idle_ms else 0,
        quarantined=() if queue is None else _quarantined(queue, now),
    )


def _quarantined(queue: VersionQueue, now: float) -> tuple[m.QuarantinedItem, ...]:
    return tuple(
        m.QuarantinedItem(
            one.request_id, one.reason, one.deaths, one.refused, int(1000 * (one.forgotten_at - now))
        )
        for one in queue.suspicions.quarantined()[:QUARANTINED_SHOWN]
        if one.forgotten_at > now
    )


def _gpu_use(core: BrokerCore, worker: Worker) -> m.GpuUse | None:
    node = core.fleet.nodes.get(worker.node) if worker.node is not None else None
    return node.gpus.get(worker.device) if node else None


def _device_type(core: BrokerCore, record: VersionRecord) -> Literal["cpu", "gpu"]:
    """Say what its workers run on; without a word of the archive, what the fleet has."""
    workers = core.fleet.of_version((record.model, record.version))
    if workers:
        return "cpu" if workers[0].gpu_id is None else "gpu"
    if record.config.device_type == "cpu":
        return "cpu"
    has_gpu = any(device.kind == "gpu" for node in core.nodes for device in node.devices)
    return "gpu" if has_gpu else "cpu"


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def fleet_facts(core: BrokerCore, ask: int, now: float) -> m.FleetRead:
    """Describe the whole fleet."""
    nodes = tuple(
        m.NodeFacts(
            node.name,
            node.devices,
            node.slots,
            len(core.fleet.of_node(node.peer)),
            core.wall_ms(node.last_heard),
        )
        for node in sorted(core.nodes, key=lambda n: (n.name, n.peer))
    )
    records = sorted(core.catalog, key=lambda r: (r.model, r.version))
    versions = tuple(version_facts(core, record, now) for record in records)
    uptime_s = core.real_seconds(core.started_at, now)
    return m.FleetRead(ask, core.epoch, uptime_s, len(core.gateways), nodes, versions,
                       tuple(core.management.loading))  # fmt: skip


def used_bytes(points: tuple[m.MetricPoint, ...], before: int | None) -> int | None:
    """Find in a host's figures how much of its memory is in use; what was so before if they don't tell."""
    for point in points:
        if point.name == "MemoryUsed" and 0 <= point.value < MEMORY_LIMIT_MB:
            return int(point.value * (1 << 20))
    return before


def gpu_uses(node: Node, gpus: tuple[m.GpuUse, ...]) -> dict[str, m.GpuUse]:
    """Return what the GPUs that a node offers have to do, by their names."""
    uses = {f"cuda:{gpu.number}": gpu for gpu in gpus}
    return {device.name: uses[device.name] for device in node.devices if device.name in uses}


def health_reasons(core: BrokerCore, now: float) -> tuple[str, ...]:
    """Name the default versions that lack workers and won't get them by themselves, and a start that goes on.

    As TorchServe's /ping: workers that are starting, or have crashed for less than the model's recovery
    window, count as healthy.
    """
    if core.management.is_starting:
        return ("models named at start are being registered",)
    return tuple(
        f"{record.model} {record.version}: {core.fleet.explain(record, now)}"
        for record in core.catalog
        if core.catalog.is_default(record)
        and len(core.fleet.ready((record.model, record.version))) < record.min_workers
        and _is_past_recovery(core, record, now)
    )


def _is_past_recovery(core: BrokerCore, record: VersionRecord, now: float) -> bool:
    condition = core.fleet.condition((record.model, record.version))
    window_s = _or(record.config.restart_window_s, core.settings.restart_window_s)
    return condition.failures > 0 and now - condition.first_failure_at >= window_s


def metric_families(core: BrokerCore, now: float) -> list[m.MetricFamily]:
    """Gather all metrics; names follow Prometheus' habits (base units, `_total`)."""
    counters = [
        _family("torchrelay_requests_total", "counter", "Requests that ended, by outcome.", [
            _sample({"model": model, "version": version, "outcome": outcome}, count)
            for (model, version), stats in core.stats.versions.items()
            for outcome, count in stats.outcomes.items()
        ]),
        _family("torchrelay_http_responses_total", "counter", "HTTP answers of all gateways.", [
            _sample({"class": name}, count) for name, count in core.stats.responses.items()
        ]),
        _family("torchrelay_worker_failures_total", "counter", "Workers that ended unasked.", [
            _sample({"model": model, "version": version}, count)
            for (model, version), count in core.stats.worker_failures.items()
        ]),
        _family("torchrelay_retries_total", "counter", "Jobs given to another worker after theirs was lost.",
                [_sample({}, core.stats.retries)]),
        _family("torchrelay_stale_results_total", "counter", "Results that came after their lease had ended.",
                [_sample({}, core.stats.stale_results)]),
        _family("torchrelay_metric_points_dropped_total", "counter", "Measured values that were not taken.",
                [_sample({"reason": reason}, count) for reason, count in core.metrics.dropped.items()]),
        _family("torchrelay_misunderstood_messages_total", "counter", "Messages that could not be read.",
                [_sample({}, core.stats.misunderstood)]),
        _family("torchrelay_wrong_keys_total", "counter", "Keys that opened nothing, at all gateways.",
                [_sample({}, core.stats.wrong_keys)]),
    ]  # fmt: skip
    return counters + _gauges(core, now) + _histograms(core)


def _gauges(core: BrokerCore, now: float) -> list[m.MetricFamily]:
    depths, waits, running, workers, quarantined = [], [], [], [], []
    for record in core.catalog:
        labels = {"model": record.model, "version": record.version}
        facts = version_facts(core, record, now)
        depths.append(_sample(labels, facts.queue_depth))
        waits.append(_sample(labels, facts.oldest_wait_ms / 1000))
        running.append(_sample(labels, sum(worker.jobs_running for worker in facts.workers)))
        queue = core.jobs.queues.get((record.model, record.version))
        quarantined.append(_sample(labels, 0 if queue is None else len(queue.suspicions.quarantined())))
        workers.append(_sample({**labels, "state": "wanted"}, record.min_workers))
        for state in WorkerState:
            if state is not WorkerState.GONE:
                count = sum(worker.state == state.value for worker in facts.workers)
                workers.append(_sample({**labels, "state": state.value}, count))
    nodes = core.nodes
    slots = [_sample({"node": node.name, "use": "all"}, node.slots) for node in nodes]
    slots += [
        _sample({"node": node.name, "use": "taken"}, len(core.fleet.of_node(node.peer))) for node in nodes
    ]
    devices = [
        _sample({"node": node.name, "device": device.name, "use": "all"}, device.memory_bytes)
        for node in nodes
        for device in node.devices
    ]
    devices += [
        _sample({"node": node.name, "device": device, "use": "taken"}, used)
        for node in nodes
        for device, used in _used_bytes(node)
    ]
    memory = [
        _sample({"node": worker.node_name, "model": worker.key[0], "version": worker.key[1],
                 "worker": str(worker.worker_id)}, worker.memory_bytes)
        for worker in core.fleet.workers.values()
    ]  # fmt: skip
    live = sum(worker.state in LIVE for worker in core.fleet.workers.values())
    return [
        _family("torchrelay_queue_depth", "gauge", "Jobs that wait.", depths),
        _family("torchrelay_queue_oldest_wait_seconds", "gauge", "How long the oldest has waited.", waits),
        _family("torchrelay_jobs_running", "gauge", "Jobs on workers.", running),
        _family(
            "torchrelay_quarantined_contents",
            "gauge",
            "Contents whose requests are refused, since they ended workers.",
            quarantined,
        ),
        _family("torchrelay_workers", "gauge", "Workers by state, and how many are wanted.", workers),
        _family(
            "torchrelay_workers_live", "gauge", "Workers that are ready or starting.", [_sample({}, live)]
        ),
        _family("torchrelay_node_slots", "gauge", "Places for workers.", slots),
        _family("torchrelay_device_memory_bytes", "gauge", "Memory of devices; cpu is the host's.", devices),
        _family("torchrelay_worker_memory_bytes", "gauge", "Resident memory of workers.", memory),
        _family("torchrelay_nodes", "gauge", "Nodes that have joined.", [_sample({}, len(nodes))]),
        _family("torchrelay_gateways", "gauge", "Gateway processes.", [_sample({}, len(core.gateways))]),
    ]


def _used_bytes(node: Node) -> Iterator[tuple[str, int]]:
    if node.used_bytes is not None:
        yield "cpu", node.used_bytes
    for device, gpu in node.gpus.items():
        yield device, gpu.used_bytes


def _histograms(core: BrokerCore) -> list[m.MetricFamily]:
    queue, handler, total, batch = [], [], [], []
    for (model, version), stats in core.stats.versions.items():
        if not stats.submitted:
            continue  # a fleet with a thousand idle models has room for its busy ones
        labels = (("model", model), ("version", version))
        queue += samples_of(labels, stats.queue_seconds)
        handler += samples_of(labels, stats.handler_seconds)
        total += samples_of(labels, stats.total_seconds)
        batch += samples_of(labels, stats.batch_jobs)
    return [
        _family("torchrelay_queue_seconds", "histogram", "Time from arrival to a worker.", queue),
        _family("torchrelay_handler_seconds", "histogram", "Time in the handler, by batch.", handler),
        _family("torchrelay_request_seconds", "histogram", "Time from arrival to answer.", total),
        _family("torchrelay_batch_jobs", "histogram", "Jobs in a batch.", batch),
    ]


def _family(name: str, kind: str, text: str, samples: list[m.Sample]) -> m.MetricFamily:
    assert kind in ("counter", "gauge", "histogram")
    return m.MetricFamily(name, kind, text, tuple(samples))  # type: ignore[arg-type]  # narrowed above


def _sample(labels: dict[str, str], value: float) -> m.Sample:
    return m.Sample("", tuple(labels.items()), float(value))
