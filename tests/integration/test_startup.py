"""From the first moment that a port accepts: nobody hears "not found" of a model that was named at start."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from tests.integration.archives import make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration


class HeldOrigin(ThreadingHTTPServer):
    """Gives one archive to everybody, but only once `release` is called."""

    daemon_threads = True

    def __init__(self, host: str, content: bytes) -> None:
        super().__init__((host, 0), Answer)
        self.content = content
        self.is_asked = threading.Event()
        self.is_released = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_port}/echo.mar"

    def release(self) -> None:
        self.is_released.set()


class Answer(BaseHTTPRequestHandler):
    server: HeldOrigin

    def do_GET(self) -> None:
        self.server.is_asked.set()
        self.server.is_released.wait()
        self.send_response(200)
        self.send_header("content-length", str(len(self.server.content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # whoever asked may have gone
            self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path, make_store(tmp_path / "models", "teller")) as made:
        yield made


@pytest.fixture
def origin(parts: Fleet, tmp_path: Path) -> Iterator[HeldOrigin]:
    (archive,) = make_store(tmp_path / "origin", "echo").iterdir()
    held = HeldOrigin(parts.address, archive.read_bytes())
    yield held
    held.release()
    held.shutdown()
    held.server_close()


def accepts(address: str) -> bool:
    try:
        httpx2.get(f"{address}/livez", timeout=2)
    except httpx2.TransportError:
        return False
    return True


@pytest.mark.parametrize("is_whole", [True, False], ids=["serve", "parts"])
def test_what_was_named_at_start_is_waited_for(parts: Fleet, origin: HeldOrigin, is_whole: bool) -> None:
    named = ["--models", "all", "--models", f"slow={origin.url}", "--allow-private-urls"]
    if is_whole:
        folders = ["--state-dir", str(parts.folder / "state"), "--cache-dir", str(parts.folder / "cache")]
        parts.run("serve", "--model-store", str(parts.store), *folders, *parts.listeners(), *named)
    else:
        parts.gateway()  # first, and for a while there is no broker for it
        eventually(lambda: accepts(parts.management))
        parts.node("n")
    eventually(lambda: accepts(parts.management))
    with ThreadPoolExecutor(8) as threads:
        calls = [
            threads.submit(parts.predict, "slow"),
            threads.submit(parts.http.get, f"{parts.management}/models/slow"),
            threads.submit(parts.http.get, f"{parts.management}/models"),
            threads.submit(parts.scale, "slow", min_worker=1, synchronous=True),
        ]
        if not is_whole:
            parts.broker(*named)
        assert origin.is_asked.wait(30)
        eventually(lambda: parts.status().get("loading") == [origin.url])  # teller is registered
        assert parts.http.get(f"{parts.inference}/ping").status_code == 500
        assert parts.http.get(f"{parts.management}/readyz").status_code == 503
        assert parts.http.post(f"{parts.inference}/invocations").status_code == 503
        assert parts.predict("teller").status_code == 200
        calls.append(threads.submit(parts.predict, "slow"))
        assert not any(call.done() for call in calls)
        origin.release()
        statuses = [call.result().status_code for call in calls]
    assert statuses == [200] * 5
    assert [entry["modelName"] for entry in calls[2].result().json()["models"]] == ["slow", "teller"]
    assert parts.http.get(f"{parts.inference}/ping").status_code == 200
    assert parts.http.get(f"{parts.management}/readyz").status_code == 200
    assert parts.predict("stranger").status_code == 404
