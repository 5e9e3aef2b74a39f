"""Logs of running servers, under a handler that prints without end: each is moved away at its size."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.installation import command
from tests.integration.archives import make_store
from tests.integration.fleet import own_address
from tests.support import eventually
from torchrelay.shared.settings import environment

pytestmark = pytest.mark.integration

MEGABYTE = 1 << 20
FILES = 1


class Server:
    """A server whose logs are moved away at one megabyte."""

    def __init__(self, folder: Path) -> None:
        self.folder, host = folder, own_address()
        self.url = f"http://{host}:8080"
        self.http = httpx2.Client(timeout=60)
        make_store(folder / "models", "prints_without_end")
        addresses = [f"{api}_address=http://{host}:{port}" for api, port in PORTS.items()]
        settings = ["default_workers_per_model=1"]
        (folder / "config.properties").write_text("\n".join([*addresses, *settings]))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        limits = {"TORCHRELAY_LOG_FILE_MB": "1", "TORCHRELAY_LOG_FILES": str(FILES)}
        self.process = subprocess.Popen(
            [command(words[0]), *words[1:], "--model-store", "models", "--models", "all"],
            cwd=self.folder,
            env={**environment(), **limits, "TMPDIR": "", "XDG_CACHE_HOME": str(self.folder / "cache")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self.predict, within_s=90)

    def predict(self, query: str = "") -> bool:
        url = f"{self.url}/predictions/prints_without_end{query}"
        try:
            return self.http.post(url, content=b"x").text == "answered"
        except httpx2.TransportError:
            return False


PORTS = {"inference": 8080, "management": 8081, "metrics": 8082}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    if made.process:
        made.process.send_signal(signal.SIGTERM)
        made.process.wait(20)


def sizes(folder: Path) -> dict[str, int]:
    found = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just been moved
            found[path.name] = path.stat().st_size if path.is_file() else 0
    return found


def inode_of(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_ino
    return 0


def require_turning(folder: Path, name: str) -> None:
    """Wait until a log has been moved away twice, and see that no more of it is kept."""
    moved = folder / f"{name}.1"
    eventually(moved.exists, within_s=60)
    first = inode_of(moved)
    eventually(lambda: inode_of(moved) not in (0, first), within_s=60)
    found = sizes(folder)
    assert not [name for name in found if name.endswith((".2", ".3"))]
    assert max(found.values()) <= MEGABYTE, found


def test_torchserves_logs_are_bounded_under_a_handler_that_prints_without_end(server: Server) -> None:
    server.start("torchserve", "--foreground", "--disable-token-auth", "--ncs")
    logs = server.folder / "logs"
    while not (logs / "access_log.log.1").exists():
        assert server.predict(f"?x={'z' * 3800}"), "who prints harms nobody else"
    require_turning(logs, "model_log.log")
    assert server.predict()


def test_the_logs_of_torchrelay_are_bounded_likewise(server: Server) -> None:
    server.start("torchrelay", "serve", "--state-dir", "state")
    require_turning(server.folder / "state" / "logs", "worker.log")
    assert server.predict()
