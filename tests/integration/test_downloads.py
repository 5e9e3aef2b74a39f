"""Origins that drip, seen from outside: they hold up nobody else, and no stop."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.integration.archives import make
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"


class DrippingOrigin:
    """Sends a byte now and then to whoever asks, without end."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked = 0
        self._released = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._released.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(near,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            near.recv(65536)
            near.sendall(HEAD)
            self.asked += 1
            while not self._released.wait(0.05):
                near.sendall(b"x")


@pytest.fixture
def origin() -> Iterator[DrippingOrigin]:
    made = DrippingOrigin()
    yield made
    made.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Fleet]:
    store = tmp_path / "store"
    store.mkdir()
    make(store, "echo")
    with fleet(tmp_path, store) as made:
        yield made


def test_dripping_origins_hold_up_no_other_registration_and_no_stop(
    server: Fleet, origin: DrippingOrigin, tmp_path: Path
) -> None:
    elsewhere = make(tmp_path, "describes")
    os.mkfifo(tmp_path / "pipe.mar")
    broker = server.broker("--allow-private-urls")
    gateway = server.gateway()
    server.wait_until_up(gateway)

    def drip(number: int) -> None:
        with contextlib.suppress(httpx2.HTTPError):
            server.register(f"http://{origin.address}/{number}.mar")

    with ThreadPoolExecutor(8) as clients:
        for number in range(8):
            clients.submit(drip, number)
        eventually(lambda: origin.asked >= 4)
        assert server.register("echo.mar", initial_workers=0).status_code == 200
        assert server.register(elsewhere.as_uri(), initial_workers=0).status_code == 200
        assert server.register((tmp_path / "pipe.mar").as_uri()).status_code == 400
        assert origin.asked == 4, "one origin has taken more than its places"
        broker.send_signal(signal.SIGTERM)
        assert broker.wait(5) == 0
        gateway.send_signal(signal.SIGTERM)
    left = sorted(path.name for path in (tmp_path / "store").iterdir())
    # It waits for threads that had no time to clean up, but not for long.
    if "broker.not_waited" not in server.output():
        assert left == ["describes.mar", "echo.mar"]
    assert left[-2:] == ["describes.mar", "echo.mar"]
