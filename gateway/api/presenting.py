"""Facts into the JSON that TorchServe's clients know; no I/O, and byte for byte where they compare bytes.

Field names, their order and the texts are TorchServe's; see its management and inference API.
"""

from collections.abc import Iterable

from falcon.asgi import Response

from torchrelay.gateway.http.standard_responses import JSON, error_body, pretty
from torchrelay.shared import clock, errors
from torchrelay.shared.wire import messages as m


def answer(resp: Response, value: object, status: int = 200) -> None:
    """Answer with JSON."""
    resp.status = status
    resp.content_type = JSON
    resp.data = pretty(value)


def answer_error(resp: Response, error: errors.RelayError, status: int) -> None:
    """Answer with an error."""
    resp.status = status
    resp.content_type = JSON
    resp.data = error_body(error, status)
    if error.retryable and status == 503:
        resp.set_header("retry-after", "1")


def description(version: m.VersionFacts) -> dict[str, object]:
    """Describe one version, in the order of TorchServe's fields."""
    device_ids = {"deviceIds": version.device_ids} if version.device_ids else {}
    return {
        "modelName": version.model,
        "modelVersion": version.version,
        "modelUrl": version.url,
        "runtime": version.runtime,
        "minWorkers": version.min_workers,
        "maxWorkers": version.max_workers,
        "batchSize": version.batch_size,
        "maxBatchDelay": version.max_batch_delay_ms,
        "responseTimeout": version.response_timeout_s,
        "startupTimeout": version.startup_timeout_s,
        "maxRetryTimeoutInSec": version.restart_window_s,
        "clientTimeoutInMills": version.client_timeout_ms,
        "parallelType": version.parallel_type,
        "parallelLevel": version.parallel_level,
        "deviceType": version.device_type,
        **device_ids,
        "continuousBatching": version.continuous_batching,
        "useJobTicket": version.use_job_ticket,
        "useVenv": version.use_venv,
        "stateful": version.sequence_batching,
        "sequenceMaxIdleMSec": version.sequence_max_idle_ms,
        "sequenceTimeoutMSec": version.sequence_timeout_ms,
        "maxNumSequence": version.max_sequences,
        "maxSequenceJobQueueSize": version.max_sequence_queue_jobs,
        "loadedAtStartup": version.loaded_at_startup,
        "workers": [_worker(worker) for worker in version.workers],
        "jobQueueStatus": {
            "remainingCapacity": max(0, version.queue_limit - version.queue_depth),
            "pendingRequests": version.queue_depth,
        },
    }


def is_ready(version: m.VersionFacts) -> bool:
    """Tell whether a worker of this version can take a batch."""
    return any(worker.state == "ready" for worker in version.workers)


def _worker(worker: m.WorkerFacts) -> dict[str, object]:
    return {
        "id": str(worker.worker_id),
        "startTime": clock.iso(worker.started_at_ms),
        "status": "READY" if worker.state == "ready" else "UNLOADING",
        "memoryUsage": worker.memory_bytes,
        "pid": worker.pid,
        "gpu": _is_gpu(worker),
        "gpuUsage": _gpu_usage(worker),
    }


def _gpu_usage(worker: m.WorkerFacts) -> str:
    """Write what nvidia-smi says of the worker's GPU, as TorchServe puts it together."""
    if not _is_gpu(worker):
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


def _is_gpu(worker: m.WorkerFacts) -> bool:
    return worker.device.startswith("cuda")


def fleet(read: m.FleetRead, server_id: str = "") -> dict[str, object]:
    """Write all that `torchrelay status` shows; ours alone, so it may grow."""
    return {
        "epoch": read.epoch,
        "uptimeS": read.uptime_s,
        "gateways": read.gateways,
        "loading": read.loading,
        "serverId": server_id,
        "nodes": [
            {
                "name": node.name,
                "devices": [
                    {
                        "name": device.name,
                        "kind": device.kind,
                        "description": device.description,
                        "memoryBytes": device.memory_bytes,
                    }
                    for device in node.devices
                ],
                "slots": node.slots,
                "slotsUsed": node.slots_used,
                "lastSeenMs": node.last_seen_ms,
            }
            for node in read.nodes
        ],
        "models": [_fleet_model(version) for version in read.versions],
    }


def _fleet_model(version: m.VersionFacts) -> dict[str, object]:
    return {
        "modelName": version.model,
        "modelVersion": version.version,
        "isDefault": version.is_default,
        "modelUrl": version.url,
        "workersWanted": version.min_workers,
        "workersReady": sum(worker.state == "ready" for worker in version.workers),
        "queueDepth": version.queue_depth,
        "queueLimit": version.queue_limit,
        "oldestWaitMs": version.oldest_wait_ms,
        "explanation": version.explanation,
        "lastError": version.last_error,
        "quarantined": [
            {
                "requestId": one.request_id,
                "reason": one.reason,
                "workersLost": one.workers_lost,
                "refused": one.refused,
                "leftMs": one.left_ms,
            }
            for one in version.quarantined
        ],
        "workers": [
            {
                "id": worker.worker_id,
                "state": worker.state,
                "node": worker.node,
                "device": worker.device,
                "pid": worker.pid,
                "startTime": clock.iso(worker.started_at_ms),
                "memoryBytes": worker.memory_bytes,
                "jobsRunning": worker.jobs_running,
                "note": worker.note,
            }
            for worker in version.workers
        ],
    }


def model_list(listed: m.ModelsListed) -> dict[str, object]:
    """Write a page of the list; the token is a string, and absent on the last page."""
    page: dict[str, object] = {}
    if listed.next_offset is not None:
        page["nextPageToken"] = str(listed.next_offset)
    page["models"] = [{"modelName": entry.model, "modelUrl": entry.url} for entry in listed.models]
    return page


def exposition(families: Iterable[m.MetricFamily], names: frozenset[str]) -> bytes:
    """Write metrics in Prometheus' text format 0.0.4, all or those samples whose full name is given.

    TorchServe's counters are called `Requests2XX`, without the `_total` that the Prometheus client
    library would add.
    """
    lines = []
    for family in families:
        samples = [s for s in family.samples if not names or family.name + s.suffix in names]
        if names and not samples:
            continue
        lines.append(f"# HELP {family.name} {_escaped(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for sample in samples:
            labels = "".join(f'{key}="{_escaped(value, quote=True)}",' for key, value in sample.labels)
            braced = f"{{{labels}}}" if labels else ""
            lines.append(f"{family.name}{sample.suffix}{braced} {_number(sample.value)}")
    return "".join(line + "\n" for line in lines).encode()


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    text = repr(float(value))
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text, text)
