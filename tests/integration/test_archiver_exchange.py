"""Archives cross over: PyPI's torch-model-archiver makes what we load, we make what TorchServe loads."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.integration.archives import HANDLERS, make_store
from tests.integration.fleet import fleet, own_address
from tests.support import eventually

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("preloaded_torch")]

#: The real TorchServe needs Java and an environment of its own: say where. One on the PATH may be ours.
TORCHSERVE = os.environ.get("TORCHSERVE")


def test_an_archive_of_torch_model_archiver_is_served(tmp_path: Path) -> None:
    store = tmp_path / "models"
    store.mkdir()
    handler = tmp_path / "teller_handler.py"
    handler.write_text(HANDLERS["teller"])
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"w" * 1000)
    subprocess.run(
        [str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", "pypi",
         "--version", "3.1", "--handler", str(handler), "--serialized-file", str(weights),
         "--export-path", str(store)],
        check=True,
    )  # fmt: skip
    with fleet(tmp_path, store) as server:
        server.serve("--models", "pypi.mar")
        eventually(lambda: server.ready("pypi"))
        assert server.predict("pypi").json()["rows"] == 1
        assert server.describe("pypi")["modelVersion"] == "3.1"


@contextmanager
def torchserve(store: Path, folder: Path, model: str) -> Iterator[str]:
    """Run the real TorchServe with one model; give the URL of its inference API."""
    address = own_address()
    config = folder / "torchserve.properties"
    ports = {"inference": 8080, "management": 8081, "metrics": 8082}
    lines = [f"{name}_address=http://{address}:{port}" for name, port in ports.items()]
    lines += [f"grpc_{name}_address={address}" for name in ("inference", "management")]
    config.write_text("\n".join([*lines, "default_workers_per_model=1"]))
    environment = {
        **os.environ,
        "TEMP": str(folder),
        "PATH": f"{Path(str(TORCHSERVE)).parent}:{os.environ['PATH']}",
    }
    with (folder / "torchserve.log").open("wb") as log:
        process = subprocess.Popen(
            [str(TORCHSERVE), "--start", "--foreground", "--ncs", "--disable-token-auth", "--model-store",
             str(store), "--models", f"{model}.mar", "--ts-config", str(config)],
            cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield f"http://{address}:8080"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.mark.skipif(
    TORCHSERVE is None, reason="the real TorchServe isn't installed; see CONTRIBUTING.md, how tests look"
)
def test_our_archive_is_served_by_the_real_torchserve(tmp_path: Path) -> None:
    store = make_store(tmp_path / "models", "echo")
    with torchserve(store, tmp_path, "echo") as url, httpx2.Client(timeout=5) as client:

        def is_answered() -> bool:
            try:
                answer = client.post(f"{url}/predictions/echo", content=b"hello",
                                     headers={"content-type": "application/octet-stream"})  # fmt: skip
            except httpx2.TransportError:
                return False
            return answer.content == b"hello"

        eventually(is_answered)
