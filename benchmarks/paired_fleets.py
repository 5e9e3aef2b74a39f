"""Two fleets that differ in one thing: one's parts speak in clear on tcp, the other's by keys and encrypted.

Each has a broker, a node on a host of its own, and two gateways: one beside the broker, which dials the unix
socket there, and one on a third host.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import httpx2

from benchmarks import processes, servers
from benchmarks.private_hosts import Hosts
from benchmarks.results import RunPlan
from torchrelay.shared import clock
from torchrelay.shared.settings import environment

#: The broker's host, the node's, and that of the second gateway.
FRONT, RACK, OTHER = HOSTS = ("front", "rack", "other")
#: Where a gateway is, by how it reaches the broker.
GATEWAYS = {"unix": FRONT, "tcp": OTHER}
PORTS = {"plain": 7701, "secured": 7702}
#: Whose invitations the broker keeps in files.
ROLES = ("node", "gateway")
HTTP_PORTS = {"plain": 8081, "secured": 8082}
START_LIMIT_S = 60.0


@dataclass
class PairedFleet:
    """A fleet of one `kind`, `plain` or `secured`."""

    kind: str
    hosts: Hosts
    folder: Path
    store: Path
    parts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where requests go, on the host of either gateway."""
        return f"http://127.0.0.1:{HTTP_PORTS[self.kind]}/predictions/{servers.MODEL}"

    def load_prefix(self, gateway: str) -> tuple[str, ...]:
        """Return what the load generator's command begins with, which runs beside the gateway."""
        return self.hosts.command(GATEWAYS[gateway])

    def cpu_seconds(self, gateway: str) -> dict[str, float]:
        """Read the CPU time that each process has taken on the way of a request, libzmq's threads apart."""
        spent: dict[str, float] = {}
        for part in ("broker", f"{gateway} gateway", "node"):
            role = part.rpartition(" ")[2]
            for process, name in processes.tree(self.parts[part].pid, roles_under(role)):
                for kind, seconds in processes.thread_seconds(process.pid).items():
                    called = f"{name}, zmq" if kind == "zmq" else name
                    spent[called] = spent.get(called, 0.0) + seconds
        return spent

    def commands(self, plan: RunPlan) -> dict[str, tuple[str, list[str]]]:
        """Return the host and the command of each part, in the order in which they start."""
        socket = f"ipc://{self.folder}/broker.sock"
        is_plain = self.kind == "plain"
        addresses = (socket, self._address(RACK), self._address(OTHER))
        invitations = [f"--invitation-file={role}={self.folder / role}" for role in ROLES]
        broker = ["broker", *(f"--address={address}" for address in addresses), "--state-dir", "state",
                  "--model-store", str(self.store), "--enable-model-api",
                  *(["--insecure"] if is_plain else invitations)]  # fmt: skip
        node = ["worker", "--name", RACK, "--device", "cpu", "--slots", "1", "--cache-dir", "cache",
                *self._join("node", RACK)]  # fmt: skip
        return {
            "broker": (FRONT, broker),
            "unix gateway": (FRONT, [*self._gateway("unix", plan), "--broker", socket]),
            "tcp gateway": (OTHER, [*self._gateway("tcp", plan), *self._join("gateway", OTHER)]),
            "node": (RACK, node),
        }

    def start(self, plan: RunPlan, stack: ExitStack) -> None:
        """Start all parts, and have the model served; `stack` ends them. Raises ServerFailed."""
        for part, (host, words) in self.commands(plan).items():
            self._start(part, host, words, stack)
            if part == "broker":
                self._until(self._listens)
        self._register(plan)

    def _listens(self) -> bool:
        made = ["broker.sock", *(ROLES if self.kind == "secured" else ())]
        return all((self.folder / name).exists() for name in made)

    def _address(self, host: str) -> str:
        return f"tcp://{self.hosts.first_seen_by(host)}:{PORTS[self.kind]}"

    def _gateway(self, name: str, plan: RunPlan) -> Sequence[str]:
        management = f"unix:{self.folder}/{name}.sock"
        return ("gateway", "--processes", str(plan.gateway_processes), "--enable-model-api", "--lead", "0",
                "--inference-address", f"http://127.0.0.1:{HTTP_PORTS[self.kind]}",
                "--management-address", management, "--metrics-address", management)  # fmt: skip

    def _join(self, role: str, host: str) -> Sequence[str]:
        if self.kind == "plain":
            return "--broker", self._address(host), "--insecure"
        credentials = str(self.folder / f"{role}-credentials.json")
        return ("--broker", self._address(host), "--join-file", str(self.folder / role),
                "--credentials", credentials)  # fmt: skip

    def _start(self, part: str, host: str, words: Sequence[str], stack: ExitStack) -> None:
        log: BinaryIO = stack.enter_context(self._log(part).open("wb"))
        program = str(Path(sys.executable).parent / "torchrelay")
        process = subprocess.Popen(
            [*self.hosts.command(host), program, *words],
            cwd=self.folder,
            env={**environment(), "XDG_RUNTIME_DIR": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(servers.stop, process)
        self.parts[part] = process

    def _register(self, plan: RunPlan) -> None:
        parameters: dict[str, str | int] = {
            "url": servers.ARCHIVE,
            "model_name": servers.MODEL,
            "initial_workers": 1,
            "synchronous": "true",
            "batch_size": plan.batch_size,
            "max_batch_delay": plan.max_batch_delay_ms,
        }
        with self._http("unix") as management:
            self._until(lambda: _is_ready(management))
            answer = management.post("/models", params=parameters)
        if answer.status_code != httpx2.codes.OK:
            raise self._failed(f"refused the model: {answer.text}")
        with self._http("tcp") as management:
            self._until(lambda: _is_ready(management))

    def _http(self, gateway: str) -> httpx2.Client:
        transport = httpx2.HTTPTransport(uds=str(self.folder / f"{gateway}.sock"))
        return httpx2.Client(transport=transport, base_url="http://localhost", timeout=START_LIMIT_S)

    def _until(self, predicate: Callable[[], bool]) -> None:
        deadline = clock.monotonic() + START_LIMIT_S
        while not predicate():
            ended = [part for part, process in self.parts.items() if process.poll() is not None]
            if ended:
                raise self._failed(f"has lost its {ended[0]}")
            if clock.monotonic() > deadline:
                raise self._failed(f"was not ready after {START_LIMIT_S:.0f} s")
            servers.pause(servers.POLL_S)

    def _failed(self, how: str) -> servers.ServerFailed:
        words = "\n".join(f"{part}: {self._log(part).read_text(errors='replace')}" for part in self.parts)
        return servers.ServerFailed(f"The {self.kind} fleet {how}; its last words:\n{words}")

    def _log(self, part: str) -> Path:
        return self.folder / f"{part}.log"


@contextmanager
def running(hosts: Hosts, folder: Path, store: Path, plan: RunPlan) -> Iterator[dict[str, PairedFleet]]:
    """Have a fleet of each kind for a while. Raises ServerFailed."""
    with ExitStack() as stack:
        fleets = {}
        for kind in PORTS:
            home = folder / kind
            home.mkdir(mode=0o700)
            fleets[kind] = PairedFleet(kind, hosts, home, store)
            fleets[kind].start(plan, stack)
        yield fleets


def roles_under(root: str) -> processes.RoleOf:
    """Return the roles of the processes of a part that was started by itself."""
    first = {"gateway": "gateway arbiter"}.get(root, root)
    return lambda command, parent: first if parent is None else processes.torchrelay_role(command, parent)


def _is_ready(management: httpx2.Client) -> bool:
    try:
        return management.get("/readyz").status_code == httpx2.codes.OK
    except httpx2.TransportError:
        return False
