"""Workers on GPUs, where there are any."""

from pathlib import Path

import pytest

from tests.integration.archives import make_store
from tests.integration.fleet import fleet
from tests.support import eventually
from torchrelay.shared.settings import environment
from torchrelay.worker.node import devices

GPUS = [device for device in devices.offered(("auto",), environment()) if device.kind == "gpu"]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.gpu,
    pytest.mark.usefixtures("preloaded_torch"),
    pytest.mark.skipif(not GPUS, reason="no CUDA device; see CONTRIBUTING.md, how tests look"),
]


def test_workers_share_out_the_gpus_and_put_their_models_there(tmp_path: Path) -> None:
    with fleet(tmp_path, make_store(tmp_path / "models", "on_device")) as server:
        server.serve("--enable-model-api", "--device", "auto")
        count = 2 * len(GPUS)
        assert server.register("on_device.mar", initial_workers=count).status_code == 200
        devices = [worker["device"] for worker in server.ready("on_device")]
        assert sorted(devices) == sorted(device.name for device in GPUS for _ in range(2))
        assert all(worker["gpu"] for worker in server.describe("on_device")["workers"])
        answer = server.predict("on_device").json()
        assert answer["device"] in devices
        assert answer["sum"] == 6.0


def test_a_killed_worker_gives_its_gpu_back_to_the_next(tmp_path: Path) -> None:
    with fleet(tmp_path, make_store(tmp_path / "models", "on_device")) as server:
        server.serve("--enable-model-api", "--device", GPUS[0].name)
        server.register("on_device.mar", initial_workers=1)
        (worker,) = server.ready("on_device")
        (process,) = [p for p in server.descendants() if p.pid == worker["pid"]]
        process.kill()
        eventually(lambda: server.predict("on_device").json().get("device") == GPUS[0].name)
