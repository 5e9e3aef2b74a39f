"""Bodies as a server answers with them, for tests: nothing but what a test changes is of interest."""

from typing import Any

from msgspec.structs import replace

from torchrelay.shared.api_bodies import (
    DeviceBody,
    FleetBody,
    FleetModelBody,
    FleetWorkerBody,
    JobQueueBody,
    MemberBody,
    NodeBody,
    VersionBody,
    WorkerBody,
)

_MODEL = FleetModelBody(
    model_name="m", model_version="1.0", is_default=True, model_url="m.mar", workers_wanted=1,
    workers_ready=0, queue_depth=0, queue_limit=100, oldest_wait_ms=0, explanation="", last_error="",
    quarantined=(), workers=(),
)  # fmt: skip
_NODE = NodeBody(
    name="a-host", devices=(DeviceBody(name="cpu", kind="cpu", description="64 cores", memory_bytes=1),),
    slots=32, slots_used=3, last_seen_ms=20,
)  # fmt: skip
_FLEET = FleetBody(epoch=4, uptime_s=185.2, gateways=1, loading=(), server_id="", nodes=(_NODE,), models=())
_VERSION = VersionBody(
    model_name="m", model_version="1.0", model_url="m.mar", runtime="python", min_workers=0, max_workers=0,
    batch_size=1, max_batch_delay=100, response_timeout=120, startup_timeout=120,
    max_retry_timeout_in_sec=300, client_timeout_in_mills=0, parallel_type="", parallel_level=0,
    device_type="cpu", continuous_batching=False, use_job_ticket=False, use_venv=False, stateful=False,
    sequence_max_idle_ms=0, sequence_timeout_ms=0, max_num_sequence=0, max_sequence_job_queue_size=0,
    loaded_at_startup=False, workers=(),
    job_queue_status=JobQueueBody(remaining_capacity=100, pending_requests=0),
)  # fmt: skip
_WORKER = WorkerBody(
    id="9000", start_time="2026-01-31T12:00:00.000Z", status="READY", memory_usage=391 << 20, pid=123456,
    gpu=False, gpu_usage="N/A",
)  # fmt: skip
_MEMBER = MemberBody(name="rack3", state="here", workers=0, jobs_running=0, key="0123456789ab")
_FLEET_WORKER = FleetWorkerBody(
    id=1, state="ready", node="rack3", device="cpu", pid=1, start_time="2026-01-31T12:00:00.000Z",
    memory_bytes=1, jobs_running=0, note="",
)  # fmt: skip


def model(**changes: Any) -> FleetModelBody:
    return replace(_MODEL, **changes)


def node(**changes: Any) -> NodeBody:
    return replace(_NODE, **changes)


def fleet(*models: FleetModelBody, **changes: Any) -> FleetBody:
    return replace(_FLEET, models=models, **changes)


def version(**changes: Any) -> VersionBody:
    return replace(_VERSION, **changes)


def member(**changes: Any) -> MemberBody:
    return replace(_MEMBER, **changes)


def fleet_worker(**changes: Any) -> FleetWorkerBody:
    return replace(_FLEET_WORKER, **changes)


def worker(**changes: Any) -> WorkerBody:
    return replace(_WORKER, **changes)


#: As JSON, with a field that no command knows.
FLEET = {
    "epoch": 4,
    "uptimeS": 185.2,
    "gateways": 1,
    "loading": [],
    "serverId": "",
    "nodes": [
        {
            "name": "a-host-with-a-rather-long-name.rack-17.example.internal",
            "devices": [{"name": "cpu", "kind": "cpu", "description": "64 cores", "memoryBytes": 1}],
            "slots": 32,
            "slotsUsed": 3,
            "lastSeenMs": 20,
        }
    ],
    "models": [
        {
            "modelName": "digits",
            "modelVersion": "1.0",
            "isDefault": True,
            "modelUrl": "digits.mar",
            "workersWanted": 2,
            "workersReady": 2,
            "queueDepth": 3,
            "queueLimit": 100,
            "oldestWaitMs": 12,
            "explanation": "",
            "lastError": "",
            "quarantined": [],
            "workers": [],
            "aFieldOfNextYear": {},
        },
        {
            "modelName": "a-model-whose-name-nobody-would-want-to-type-twice-in-one-day",
            "modelVersion": "2024.01.31-rc1",
            "isDefault": False,
            "modelUrl": "x.mar",
            "workersWanted": 1,
            "workersReady": 0,
            "queueDepth": 0,
            "queueLimit": 100,
            "oldestWaitMs": 0,
            "explanation": "wants 1, has 0: restarting in 4 s",
            "lastError": "ModuleNotFoundError: No module named 'torchvision'",
            "quarantined": [{"requestId": "id-1", "reason": "killed by signal 11", "workersLost": 2,
                             "refused": 5, "leftMs": 250_000}],
            "workers": [],
        },
    ],
}  # fmt: skip
