"""What is described of versions and workers: TorchServe's fields and words."""

import json

import msgspec
import pytest

from tests.gateway.facts import GPU_WORKER, WORKER, described, facts
from tests.gateway.fakes import Gateway
from torchrelay.shared.wire import messages


def test_describe_writes_every_field_in_order() -> None:
    answer = Gateway(described(facts(WORKER))).manage("GET", "/models/echo")
    assert answer.status_code == 200
    assert answer.text == json.dumps(answer.json, indent=2) + "\n"
    (entry,) = answer.json
    assert entry == {
        "modelName": "echo",
        "modelVersion": "1.0",
        "modelUrl": "echo.mar",
        "runtime": "python",
        "minWorkers": 1,
        "maxWorkers": 2,
        "batchSize": 4,
        "maxBatchDelay": 50,
        "responseTimeout": 33,
        "startupTimeout": 44,
        "maxRetryTimeoutInSec": 55,
        "clientTimeoutInMills": 0,
        "parallelType": "",
        "parallelLevel": 0,
        "deviceType": "cpu",
        "continuousBatching": False,
        "useJobTicket": False,
        "useVenv": False,
        "stateful": False,
        "sequenceMaxIdleMSec": 0,
        "sequenceTimeoutMSec": 0,
        "maxNumSequence": 0,
        "maxSequenceJobQueueSize": 0,
        "loadedAtStartup": False,
        "workers": [
            {
                "id": "9000",
                "startTime": "2026-01-31T12:00:00.007Z",
                "status": "READY",
                "memoryUsage": 1024,
                "pid": 17,
                "gpu": False,
                "gpuUsage": "N/A",
            }
        ],
        "jobQueueStatus": {"remainingCapacity": 97, "pendingRequests": 3},
    }
    assert list(entry)[:4] == ["modelName", "modelVersion", "modelUrl", "runtime"]
    assert list(entry)[-3:] == ["loadedAtStartup", "workers", "jobQueueStatus"]


def test_a_worker_is_ready_or_unloading_and_nothing_else() -> None:
    (entry,) = Gateway(described(facts(WORKER, GPU_WORKER))).manage("GET", "/models/echo").json
    assert [(w["status"], w["gpu"]) for w in entry["workers"]] == [("READY", False), ("UNLOADING", True)]


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (
            messages.GpuUse(1, (305 << 20) + 5, 12, 3),
            "gpuId::1 utilization.gpu [%]::12 % utilization.memory [%]::3 % memory.used [MiB]::305 MiB",
        ),
        (
            messages.GpuUse(0, 0),
            "gpuId::0 utilization.gpu [%]::[N/A] utilization.memory [%]::[N/A] memory.used [MiB]::0 MiB",
        ),
        (None, "failed to obtained gpu usage"),
    ],
)
def test_what_a_workers_gpu_has_to_do_is_told_in_torchserves_words(
    use: messages.GpuUse | None, text: str
) -> None:
    worker = msgspec.structs.replace(GPU_WORKER, gpu=use)
    (entry,) = Gateway(described(facts(worker))).manage("GET", "/models/echo").json
    assert entry["workers"][0]["gpuUsage"] == text
