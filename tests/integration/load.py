"""A few clients that never let go: each request's outcome is kept, and counted once."""

import threading
from collections import Counter

import httpx2

from tests.integration.fleet import Fleet


class Load:
    """Clients that send numbered requests to one model, one after another, until stopped."""

    def __init__(self, fleet: Fleet, model: str, clients: int) -> None:
        self._fleet = fleet
        self._model = model
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        #: Number of the request -> how many answers it got. A request that got none stays at 0.
        self.answers: Counter[int] = Counter()
        self.sent = 0
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(timeout=60)
        assert not any(thread.is_alive() for thread in self._threads), "a request was never answered"

    def _run(self) -> None:
        with httpx2.Client(timeout=45) as client:
            while not self._is_over.is_set():
                with self._lock:
                    number = self.sent
                    self.sent += 1
                body = b"request %d" % number
                response = client.post(
                    f"{self._fleet.inference}/predictions/{self._model}",
                    content=body,
                    headers={"content-type": "application/octet-stream"},
                )
                with self._lock:
                    self.answers[number] += 1
                    self.statuses[response.status_code] += 1
                    if response.status_code == 200 and response.content != body:
                        self.wrong.append(f"{body!r} was answered {response.content!r}")
