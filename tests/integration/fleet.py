"""Real processes for tests: the torchrelay command as a user types it, on addresses of the test's own.

Each fleet has a loopback address to itself, so that tests can run side by side and the ports can be
TorchServe's. Every process is stopped at the end, and `Fleet.stop` fails a test that left one behind.
"""

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.installation import command
from tests.support import eventually

_numbers = itertools.count(1)


def own_address() -> str:
    """Return a loopback address that no other test uses."""
    process = os.getpid() % 65_536
    return f"127.{process >> 8}.{process & 255}.{next(_numbers) % 250 + 2}"


class Fleet:
    """Processes of one test, and a client for their REST API."""

    def __init__(self, folder: Path, store: Path | None = None) -> None:
        self.folder = folder
        self.store = store
        self.address = own_address()
        self.broker_address = f"tcp://{self.address}:7700"
        self.inference = f"http://{self.address}:8080"
        self.management = f"http://{self.address}:8081"
        self.metrics = f"http://{self.address}:8082"
        self.http = httpx2.Client(timeout=60)
        self.processes: list[subprocess.Popen[bytes]] = []
        #: What runs the command.
        self.prefix: list[str] = []
        self._seen: set[psutil.Process] = set()
        #: Those that run all parts.
        self._servers: list[subprocess.Popen[bytes]] = []

    # Processes

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the torchrelay command; its output goes to a file of its own."""
        log = self.folder / f"{arguments[0]}-{len(self.processes)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self.prefix, command("torchrelay"), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                start_new_session=True,
            )
        self.processes.append(process)
        if arguments[0] == "serve":
            self._servers.append(process)
        return process

    def serve(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `torchrelay serve` and wait until it answers."""
        process = self.run(
            "serve", "--model-store", str(self.store), "--state-dir", str(self.folder / "state"),
            "--cache-dir", str(self.folder / "cache"), *self.listeners(), *arguments,
        )  # fmt: skip
        self.wait_until_up(process)
        return process

    def broker(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a broker alone."""
        return self.run(
            "broker", "--address", self.broker_address, "--insecure", "--enable-model-api",
            "--state-dir", str(self.folder / "state"), "--model-store", str(self.store), *arguments,
        )  # fmt: skip

    def gateway(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a gateway alone."""
        return self.run(
            "gateway", "--broker", self.broker_address, "--insecure", "--enable-model-api",
            *self.listeners(), *arguments,
        )  # fmt: skip

    def node(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a node with a cache of its own, as on a host of its own."""
        return self.run("worker", "--broker", self.broker_address, "--insecure", "--name", name,
                        "--cache-dir", str(self.folder / f"cache-{name}"), *arguments)  # fmt: skip

    def listeners(self) -> list[str]:
        return ["--inference-address", self.inference, "--management-address", self.management,
                "--metrics-address", self.metrics]  # fmt: skip

    def wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the management API answers."""

        def answers() -> bool:
            assert process.poll() is None, f"it ended with {process.returncode}:\n{self.output()}"
            with contextlib.suppress(httpx2.TransportError):
                return self.http.get(f"{self.management}/readyz", timeout=2).status_code == 200
            return False

        eventually(answers)

    def output(self) -> str:
        """Return what all processes have printed."""
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))

    def descendants(self) -> list[psutil.Process]:
        """Return every process of this fleet that lives."""
        for started in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(started.pid)
                self._seen |= {parent, *parent.children(recursive=True)}
        alive = []
        for process in self._seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        return alive

    def stop(self) -> None:
        """Stop everything; fail if something was left that our own stop should have ended."""
        self.descendants()
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                if process not in self._servers:  # a part that is told twice waits for nobody
                    process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(15)
        self.http.close()
        try:
            eventually(lambda: not self.descendants())
        finally:
            for left in self.descendants():
                left.kill()
            for process in self.processes:
                process.wait(5)

    # REST

    def register(self, url: str, **parameters: object) -> httpx2.Response:
        return self.http.post(f"{self.management}/models", params={"url": url, **_texts(parameters)})

    def unregister_all(self) -> None:
        """Unregister every model, and wait until none of their workers is left."""
        for entry in self.status()["models"]:
            answer = self.http.delete(f"{self.management}/models/{entry['modelName']}")
            assert answer.status_code == 200, answer.text
        eventually(lambda: not self.status()["models"])

    def scale(self, model: str, **parameters: object) -> httpx2.Response:
        return self.http.put(f"{self.management}/models/{model}", params=_texts(parameters))

    def predict(self, model: str, body: bytes = b"hello", **headers: str) -> httpx2.Response:
        sent = {"content-type": "application/octet-stream"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(f"{self.inference}/predictions/{model}", content=body, headers=sent)

    def describe(self, model: str, *, customized: bool = False) -> Any:  # Any: JSON
        url = f"{self.management}/models/{model}"
        return self.http.get(url, params={"customized": customized}).json()[0]

    def status(self) -> Any:  # Any: JSON
        return self.http.get(f"{self.management}/fleet").json()

    def workers(self, model: str) -> list[Any]:  # Any: JSON objects
        found = [entry for entry in self.status()["models"] if entry["modelName"] == model]
        return [worker for entry in found for worker in entry["workers"]]

    def ready(self, model: str) -> list[Any]:  # Any: JSON objects
        return [worker for worker in self.workers(model) if worker["state"] == "ready"]


def _texts(parameters: dict[str, object]) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in parameters.items()}  # fmt: skip


@contextlib.contextmanager
def fleet(folder: Path, store: Path | None = None) -> Iterator[Fleet]:
    """Give a test its fleet; what it printed is shown if the test fails."""
    made = Fleet(folder, store)
    try:
        yield made
    except BaseException:
        print(made.output())  # noqa: T201  # shown by pytest
        raise
    finally:
        made.stop()
