"""A fleet on hosts of its own: a broker on the hub, a gateway of two processes, a node on each of two racks.

They have joined by invitations and speak over tcp with keys. Each part is restarted when it ends, as service
managers do. Clients come by a unix socket, so that they need no place in a namespace; every connection
between parts goes through the proxy.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import psutil

from tests.installation import ROOT
from tests.integration import archives
from tests.integration.fleet import Fleet
from tests.reliability.in_process import sitecustomize
from tests.reliability.namespaces import HUB, Namespaces
from tests.reliability.proxy import HOST_VARIABLE, Edge, Order, Trouble
from tests.support import eventually
from torchrelay.shared import clock
from torchrelay.shared.wire.fields import MemberRole

MODEL = "numbered"
#: Workers of it: one on each rack.
WORKERS = 2
GATEWAY_PROCESSES = 2
RACKS = ("rack1", "rack2")
FRONT = "front"
PORT = 7700
#: So long may a worker take for a batch of the model: longer than a node may be silent, so that what is lost
#: with one is tried elsewhere, and doesn't end with its time.
RESPONSE_TIMEOUT_S = 5
#: What has waited while a part was away is answered soon, and nothing is refused for want of room.
QUEUE_JOBS, BATCH_SIZE = 1000, 8
#: Each part that ended is started again after so long.
RESTART_S = 0.2
#: Two beats: a node that was heard since then is there.
SEEN_MS = 1000
#: Notes each request that it runs, then answers what it got.
HANDLER = """
import os, time

RUNS = os.open(os.environ["MATRIX_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def handle(data, context):
    if data is None:
        return None
    rows = [bytes(row.get("body") or b"") for row in data]
    os.write(RUNS, b"".join(b"%s %d\\n" % (row[:24].split()[0], os.getpid()) for row in rows if row.strip()))
    time.sleep(0.01)
    return rows
"""
#: The parts in the order in which they are started: where each runs.
PARTS = {"broker": HUB, "gateway": FRONT, "node": RACKS[0], "other node": RACKS[1]}
#: Where the broker listens, on the hub.
OWN_ADDRESS = f"tcp://127.0.0.1:{PORT}"
#: Joins by invitations: by words of four, the role, the name, the credentials and the invitation's file.
JOIN = """
import sys
from torchrelay.cli.start.joining import Joining
words = iter(sys.argv[2:])
for role, name, credentials, file in zip(words, words, words, words):
    Joining.of_command(role, None, file, credentials, {}, name).way(sys.argv[1], str, insecure=False)
"""
MEMBERS: dict[str, MemberRole] = {"gateway": "gateway", "node": "node", "other node": "node"}


class Hosts(Fleet):
    """The fleet, its network, and what keeps it running."""

    def __init__(self, folder: Path, network: Namespaces) -> None:
        store = folder / "store"
        store.mkdir()
        super().__init__(folder, store)
        archives.make(store, MODEL, code=HANDLER, config=f"jobQueueSize: {QUEUE_JOBS}\n")
        self.network = network
        #: The management writer's archive is this one, too: it starts no worker.
        self.socket = folder / "http.sock"
        self.management = self.inference = self.metrics = "http://localhost"
        self.http.close()
        self.http = httpx2.Client(transport=httpx2.HTTPTransport(uds=str(self.socket)), timeout=30)
        self.runs = folder / "runs"
        self.runs.touch()
        #: The first number that no request has had yet.
        self.first_number = 1
        #: What must be registered, and what may be.
        self.wanted: set[str] = set()
        self.unsure: set[str] = set()
        self._orders = folder / "orders"
        self._orders.mkdir()
        self.parts: dict[str, subprocess.Popen[bytes]] = {}
        #: The number of each part's present log among all.
        self.logs: dict[str, int] = {}
        self._is_kept = threading.Event()
        self._lock = threading.RLock()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._proxy: subprocess.Popen[bytes] | None = None

    # Start and end

    def start(self) -> None:
        """Start all parts and have the model served."""
        self._start_proxy()
        self.start_part("broker")
        eventually(lambda: all(self._invitation(role).exists() for role in MEMBERS.values()))
        self.join(*MEMBERS)
        for part in MEMBERS:
            self.start_part(part)
        self._is_kept.set()
        self._keeper.start()
        self.wait_until_up(self.parts["gateway"])
        eventually(lambda: len(self.status()["nodes"]) == len(RACKS))
        answer = self.register(f"{MODEL}.mar", initial_workers=WORKERS, response_timeout=RESPONSE_TIMEOUT_S,
                               batch_size=BATCH_SIZE, max_batch_delay=1)  # fmt: skip
        assert answer.status_code == 200, answer.text
        eventually(self.is_whole)

    def _start_proxy(self) -> None:
        command = [*self.network.command(HUB), sys.executable, "-m", "tests.reliability.proxy"]
        self._proxy = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        edges = [Edge(self.network.name(host), self.network.hub_address(host), PORT, "127.0.0.1", PORT)
                 for host in self.network.hosts]  # fmt: skip
        self._tell_proxy(edges)

    def _tell_proxy(self, words: object) -> None:
        assert self._proxy is not None
        assert self._proxy.stdin is not None
        assert self._proxy.stdout is not None
        self._proxy.stdin.write(msgspec.json.encode(words) + b"\n")
        self._proxy.stdin.flush()
        assert self._proxy.stdout.readline() == b"done\n", "the proxy has ended"

    def start_part(self, part: str) -> None:
        """Start a part on its host; that it is kept running is the keeper's."""
        host = PARTS[part]
        variables = {
            "PYTHONPATH": str(Path(sitecustomize.__file__).parent),
            sitecustomize.VARIABLE: str(self._orders),
            HOST_VARIABLE: self.network.name(host),
            "MATRIX_RUNS": str(self.runs),
        }
        self.prefix = [
            *self.network.command(host),
            "env",
            *(f"{name}={value}" for name, value in variables.items()),
        ]
        self.logs[part] = len(self.processes)
        self.parts[part] = self._start_command(part, host)

    def _start_command(self, part: str, host: str) -> subprocess.Popen[bytes]:
        if part == "broker":
            files = [f"--invitation-file={role}={self._invitation(role)}" for role in set(MEMBERS.values())]
            return self.run("broker", "--address", OWN_ADDRESS, "--enable-model-api", "--state-dir",
                            str(self.state), "--model-store", str(self.store), *files)  # fmt: skip
        words = ["--broker", f"tcp://{self.network.hub_address(host)}:{PORT}", "--credentials",
                 str(self.credentials(part))]  # fmt: skip
        if part == "gateway":
            unix = f"unix:{self.socket}"
            return self.run("gateway", *words, "--enable-model-api", "--processes", str(GATEWAY_PROCESSES),
                            "--inference-address", unix, "--management-address", unix,
                            "--metrics-address", unix)  # fmt: skip
        return self.run("worker", *words, "--name", host, "--slots", "3", "--device", "cpu",
                        "--cache-dir", str(self.cache(host)))  # fmt: skip

    def _invitation(self, role: MemberRole) -> Path:
        return self.folder / f"{role}-invitation"

    def credentials(self, part: str) -> Path:
        return self.folder / f"{part.replace(' ', '-')}.json"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def cache(self, host: str) -> Path:
        return self.folder / f"cache-{host}"

    def _keep(self) -> None:
        while self._is_kept.is_set():
            with self._lock:
                for part, process in list(self.parts.items()):
                    if process.poll() is not None and self._is_kept.is_set():
                        self.start_part(part)
            threading.Event().wait(RESTART_S)

    def join(self, *parts: str) -> None:
        """Have parts join by their role's invitation, as `--join-file` does, without starting them."""
        words: list[object] = []
        for part in parts:
            role = MEMBERS[part]
            words += [role, PARTS[part], self.credentials(part), self._invitation(role)]
        command = [*self.network.command(HUB), sys.executable, "-c", JOIN, OWN_ADDRESS, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    def join_anew(self, part: str) -> None:
        """Bring a part back whose key is known no more."""
        self.join(part)
        if part == "gateway":
            self.parts[part].kill()  # it would wait all its grace for answers to what it was asked
        else:
            self.parts[part].terminate()

    @contextmanager
    def left_alone(self) -> Iterator[None]:
        """Restart nothing for a while."""
        with self._lock:
            yield

    def stop(self) -> None:
        """Stop everything, the proxy last; fail if something was left."""
        self._is_kept.clear()
        if self._keeper.ident:
            self._keeper.join()
        for process in self.descendants():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        try:
            super().stop()
        finally:
            if self._proxy is not None:
                self._proxy.kill()
                self._proxy.wait()
                for pipe in (self._proxy.stdin, self._proxy.stdout):
                    if pipe is not None:
                        with contextlib.suppress(OSError):
                            pipe.close()

    # What there is

    def is_whole(self) -> bool:
        """Whether everything that was started is there and at work."""
        with contextlib.suppress(httpx2.HTTPError, KeyError, ValueError, StopIteration, psutil.Error):
            answer = self.http.get(f"{self.management}/fleet", timeout=2)
            if answer.status_code != 200:
                return False
            fleet = answer.json()
            model = next(one for one in fleet["models"] if one["modelName"] == MODEL)
            return (
                fleet["gateways"] == GATEWAY_PROCESSES
                and self._have_joined(self.processes_of("gateway process"))
                and {node["name"] for node in fleet["nodes"]} == set(RACKS)
                and all("broker.joined" in self.log(part) for part in ("node", "other node"))
                and all(clock.wall_ms() - node["lastSeenMs"] < SEEN_MS for node in fleet["nodes"])
                and model["workersReady"] == model["workersWanted"] == len(model["workers"]) == WORKERS
                and all(psutil.pid_exists(worker["pid"]) for worker in model["workers"])
            )
        return False

    def get_ready(self) -> None:
        """Have all there, and a worker on each rack: what was lost before may have been replaced on one."""
        eventually(self.is_whole)
        if {worker["node"] for worker in self.workers(MODEL)} != set(RACKS):
            for count in (WORKERS - 1, WORKERS):
                answer = self.scale(MODEL, min_worker=count, synchronous=True)
                assert answer.status_code == 200, answer.text
            eventually(self.is_whole)

    def changed(self, wanted: set[str], unsure: set[str]) -> None:
        """Take in what one client's changes came to."""
        self.wanted |= wanted
        self.unsure |= unsure

    def _have_joined(self, gateways: list[psutil.Process]) -> bool:
        """Whether the broker has let these gateway processes in, by its log."""
        words = self.log("broker").split()
        return len(gateways) == GATEWAY_PROCESSES and all(f"pid={one.pid}" in words for one in gateways)

    def log(self, part: str) -> str:
        """Return what the present process of a part has said."""
        (path,) = self.folder.glob(f"*-{self.logs[part]}.log")
        return path.read_text(errors="replace")

    def status(self) -> Any:  # Any: JSON
        return self._read("/fleet")

    def members(self, role: MemberRole) -> list[Any]:  # Any: JSON objects
        return list(self._read(f"/{role}s")[f"{role}s"])

    def _read(self, path: str) -> Any:  # Any: JSON
        """Return what the management API says, once it says something: a part may be away."""
        answers: list[httpx2.Response] = []

        def is_answered() -> bool:
            with contextlib.suppress(httpx2.HTTPError):
                answers.append(self.http.get(f"{self.management}{path}"))
            return bool(answers) and answers[-1].status_code == 200

        eventually(is_answered)
        return answers[-1].json()

    def is_at_rest(self) -> bool:
        """Whether no request waits or runs anywhere, by the broker's account."""
        models = self.status()["models"]
        running = [worker["jobsRunning"] for model in models for worker in model["workers"]]
        return not any(running) and not any(model["queueDepth"] for model in models)

    def registered(self) -> set[str]:
        """Return the names of what is registered, but for the model that is called."""
        names: set[str] = set()
        query = {"limit": "100"}
        while True:
            page = self.http.get(f"{self.management}/models", params=query).json()
            names |= {entry["modelName"] for entry in page["models"]}
            if "nextPageToken" not in page:
                return names - {MODEL}
            query["next_page_token"] = page["nextPageToken"]

    def process(self, role: str) -> psutil.Process:
        """Return the process of a role; where there are several, one that works."""
        found: list[psutil.Process] = []

        def is_there() -> bool:
            with contextlib.suppress(psutil.Error):
                found[:] = self.processes_of(role)
            return bool(found)

        eventually(is_there)
        return found[0]

    def processes_of(self, role: str) -> list[psutil.Process]:
        """Return the processes of a role; of nodes, launchers and workers those of the first rack."""
        match role:
            case "broker" | "node" | "other node":
                return [psutil.Process(self.parts[role].pid)]
            case "arbiter":
                return [psutil.Process(self.parts["gateway"].pid)]
            case "gateway process":
                return _living(self.process("arbiter").children())
            case "launcher":
                return _launchers(self.process("node")) or list(self.everyone()["launcher"])
            case "worker":
                mine = [worker for one in self.processes_of("launcher") for worker in _living(one.children())]
                # Where all have gone to the other rack, one of those.
                return mine or list(self.everyone()["worker"])
        raise ValueError(role)

    def everyone(self) -> Mapping[str, list[psutil.Process]]:
        """Return all processes by their role, those of both racks."""
        nodes = [psutil.Process(self.parts[part].pid) for part in ("node", "other node")]
        launchers = [one for node in nodes for one in _launchers(node)]
        return {
            **{role: self.processes_of(role) for role in ("broker", "arbiter", "gateway process")},
            "node": nodes,
            "launcher": launchers,
            "worker": [worker for launcher in launchers for worker in _living(launcher.children())],
        }

    # Faults

    def order(self, process: psutil.Process, deed: str, amount: float = 0.0) -> None:
        """Have a process harm itself."""
        (self._orders / str(process.pid)).write_text(json.dumps({"deed": deed, "amount": amount}))
        os.kill(process.pid, sitecustomize.SIGNAL)

    def trouble(self, trouble: Trouble, *, host: str = "", role: str = "", resets: bool = False) -> None:
        """Make trouble on the way of a host's parts, or of all, from now on."""
        edge = self.network.name(host) if host else ""
        self._tell_proxy(Order(trouble, edge, role, resets))

    @contextmanager
    def stopped(self, process: psutil.Process) -> Iterator[None]:
        """Stop a process for a while; that it was killed meanwhile is all right."""
        process.suspend()
        try:
            yield
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def _living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def _launchers(node: psutil.Process) -> list[psutil.Process]:
    return [one for one in _living(node.children()) if _has_word(one, "launcher")]


def _has_word(process: psutil.Process, word: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return word in " ".join(process.cmdline())
    return False


def can_mount() -> str:
    """Say why no file system can be mounted here, or nothing."""
    if os.geteuid():
        return "mounting needs root"
    return "" if shutil.which("mount") else "there is no `mount`"


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Have a folder be a disk of its own, of so many megabytes."""
    folder.mkdir(mode=0o700, exist_ok=True)
    size = f"size={megabytes}M,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def wait_for(seconds: float) -> None:
    """Let a fault last; nothing is waited for but time."""
    threading.Event().wait(seconds)
