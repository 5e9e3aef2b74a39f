"""Registers and unregisters models all the while, and keeps what was acknowledged."""

import threading

import httpx2

from tests.reliability.hosts import MODEL, Hosts

#: Models that are kept; older ones are unregistered.
KEPT = 4


class Writer:
    """One client of the management API, in a thread of its own."""

    def __init__(self, hosts: Hosts, name: str, pause_s: float) -> None:
        self._hosts = hosts
        self._name = name
        self._pause_s = pause_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: What was acknowledged as registered and not as unregistered.
        self.wanted: set[str] = set()
        #: What was asked for and not acknowledged: it may be there or not.
        self.unsure: set[str] = set()
        self.acknowledged = self.refused = 0

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a change was never answered"

    def _run(self) -> None:
        transport = httpx2.HTTPTransport(uds=str(self._hosts.socket))
        number = 0
        with httpx2.Client(transport=transport, timeout=40, base_url=self._hosts.management) as client:
            while not self._is_over.wait(self._pause_s):
                name = f"{self._name}-{number}"
                number += 1
                query = {"url": f"{MODEL}.mar", "model_name": name, "initial_workers": "0"}
                self._change(client, "POST", "/models", name, query)
                known = sorted(self.wanted, key=lambda one: int(one.rpartition("-")[2]))
                if len(known) > KEPT:
                    self._change(client, "DELETE", f"/models/{known[0]}", known[0], {})

    def _change(
        self, client: httpx2.Client, method: str, path: str, name: str, query: dict[str, str]
    ) -> None:
        is_there = method == "POST"
        try:
            status = client.request(method, path, params=query).status_code
        except httpx2.HTTPError:
            status = 0
        if status == 200:
            self.acknowledged += 1
            (self.wanted.add if is_there else self.wanted.discard)(name)
        else:
            self.refused += 1
            self.unsure.add(name)
            self.wanted.discard(name)
