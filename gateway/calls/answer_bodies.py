"""Make the bodies of answers from what the broker tells; no I/O.

The texts are TorchServe's, since clients compare whole bodies; `shared.api_bodies` has the fields.
"""

from itertools import chain, repeat
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from torchrelay.shared import api_bodies, clock
from torchrelay.shared.wire import messages as m

B = TypeVar("B", bound=api_bodies.JsonBody)


def description(
    version: m.VersionFacts, customized_metadata: msgspec.Raw | UnsetType = UNSET
) -> api_bodies.VersionBody:
    """Describe one version, with what its handler says of itself if that was asked."""
    return _body(
        api_bodies.VersionBody,
        version,
        model_name=version.model,
        model_version=version.version,
        model_url=version.url or UNSET,
        max_batch_delay=version.max_batch_delay_ms,
        response_timeout=version.response_timeout_s,
        startup_timeout=version.startup_timeout_s,
        max_retry_timeout_in_sec=version.restart_window_s,
        client_timeout_in_mills=version.client_timeout_ms,
        stateful=version.sequence_batching,
        max_num_sequence=version.max_sequences,
        max_sequence_job_queue_size=version.max_sequence_queue_jobs,
        workers=tuple(map(_worker, version.workers)),
        job_queue_status=api_bodies.JobQueueBody(
            remaining_capacity=max(0, version.queue_limit - version.queue_depth),
            pending_requests=version.queue_depth,
        ),
        customized_metadata=customized_metadata,
        placement=_placement(version),
        explanation=version.explanation if version.strategy else "",
    )


def _placement(version: m.VersionFacts) -> api_bodies.PlacementBody | UnsetType:
    if not version.strategy:
        return UNSET
    return _body(api_bodies.PlacementBody, version, labels=dict(version.labels), strategy=version.strategy)


def _body(kind: type[B], facts: msgspec.Struct, **others: Any) -> B:  # Any: of any field
    """Make a body of facts whose fields have the same names; `others` are those that differ."""
    same = {name: getattr(facts, name) for name in kind.__struct_fields__ if name not in others}
    return kind(**same, **others)


def _worker(worker: m.WorkerFacts) -> api_bodies.WorkerBody:
    return api_bodies.WorkerBody(
        id=str(worker.worker_id),
        start_time=clock.iso(worker.started_at_ms),
        status="READY" if worker.state == "ready" else "UNLOADING",
        memory_usage=worker.memory_bytes,
        pid=worker.pid,
        gpu=worker.device.startswith("cuda"),
        gpu_usage=_gpu_usage(worker),
    )


def _gpu_usage(worker: m.WorkerFacts) -> str:
    """Write what nvidia-smi says of the worker's GPU, as TorchServe puts it together."""
    if not worker.device.startswith("cuda"):
        return "N/A"
    if worker.gpu is None:
        return "failed to obtained gpu usage"  # in TorchServe's words
    busy, memory_busy = (
        "[N/A]" if percent is None else f"{percent} %"
        for percent in (worker.gpu.busy_percent, worker.gpu.memory_busy_percent)
    )
    return (
        f"gpuId::{worker.gpu.number} utilization.gpu [%]::{busy} utilization.memory [%]::{memory_busy}"
        f" memory.used [MiB]::{worker.gpu.used_bytes >> 20} MiB"
    )


def fleet(read: m.FleetRead, server_id: str = "") -> api_bodies.FleetBody:
    """Write all that `torchrelay status` shows; no API of TorchServe's, so it may grow."""
    return _body(
        api_bodies.FleetBody,
        read,
        server_id=server_id,
        nodes=tuple(map(_node, read.nodes)),
        models=tuple(map(_fleet_model, read.versions)),
        not_loaded=tuple(
            api_bodies.NotLoadedBody(model_name=one.model, model_url=one.url, reason=one.reason)
            for one in read.not_loaded
        ),
    )


def _node(node: m.NodeFacts) -> api_bodies.NodeBody:
    devices = tuple(
        _body(api_bodies.DeviceBody, device, memory_taken_bytes=taken)
        for device, taken in zip(node.devices, chain(node.taken_bytes, repeat(0)), strict=False)
    )
    return _body(
        api_bodies.NodeBody,
        node,
        devices=devices,
        last_seen_ms=node.last_seen_ms,
        labels=dict(node.labels),
        is_draining=node.is_draining,
    )


def _fleet_model(version: m.VersionFacts) -> api_bodies.FleetModelBody:
    return _body(
        api_bodies.FleetModelBody,
        version,
        model_name=version.model,
        model_version=version.version,
        model_url=version.url,
        workers_wanted=version.min_workers,
        workers_ready=sum(worker.state == "ready" for worker in version.workers),
        quarantined=tuple(_body(api_bodies.QuarantinedBody, entry) for entry in version.quarantined),
        workers=tuple(map(_fleet_worker, version.workers)),
    )


def _fleet_worker(worker: m.WorkerFacts) -> api_bodies.FleetWorkerBody:
    started = clock.iso(worker.started_at_ms)
    return _body(api_bodies.FleetWorkerBody, worker, id=worker.worker_id, start_time=started)


def model_list(listed: m.ModelsListed) -> api_bodies.ModelsBody:
    """Write a page of the list; the token is a string, and absent on the last page."""
    return api_bodies.ModelsBody(
        next_page_token=UNSET if listed.next_offset is None else str(listed.next_offset),
        models=tuple(
            api_bodies.ModelsEntryBody(model_name=entry.model, model_url=entry.url) for entry in listed.models
        ),
    )
