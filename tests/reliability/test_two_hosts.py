"""Hosts that join by the line that `nodes invite` prints, and what is seen, and refused, on the wire between.

Each host is a network namespace with a home of its own; the commands are those that an operator types.
"""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.installation import command
from tests.integration import archives
from tests.integration.fleet import Fleet
from tests.reliability.namespaces import HUB, Namespaces, namespaces, why_not
from tests.support import eventually

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(why_not()), reason=why_not())]

#: Words that cross the network in a request, its answer, and the name of what answers.
HEADER, BODY, MODEL = "header-that-nobody-else-may-read", b"body-that-nobody-else-may-read", "private-model"
PORT = 7700
#: Writes all that comes by on a host's link to a file, until its standard input ends.
SNIFF = """
import os, select, socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind((sys.argv[1], 0))
out = open(sys.argv[2], "wb", buffering=0)
print("sees", flush=True)
while sys.stdin not in select.select([link, sys.stdin], [], [])[0]:
    out.write(link.recv(65535))
"""


class Hosts(Fleet):
    """A broker and a gateway on the hub, and other hosts that see nothing but the broker's port."""

    def __init__(self, folder: Path, network: Namespaces) -> None:
        store = folder / "store"
        store.mkdir()
        super().__init__(folder, store)
        archives.make(store, MODEL, code=archives.HANDLERS["echo"])
        self.network = network
        self.socket = folder / "http.sock"
        self.inference = self.management = self.metrics = "http://localhost"
        self.http.close()
        self.http = httpx2.Client(transport=httpx2.HTTPTransport(uds=str(self.socket)), timeout=60)

    @property
    def on_the_hub(self) -> list[str]:
        return ["--management", f"unix:{self.socket}"]

    def home(self, host: str) -> dict[str, str]:
        made = self.folder / host
        made.mkdir(exist_ok=True)
        return {**os.environ, "HOME": str(made), "XDG_STATE_HOME": str(made / "state"), "XDG_RUNTIME_DIR": ""}

    def on(self, host: str, *words: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the torchrelay command on a host to its end."""
        return subprocess.run(
            [*self.network.command(host), command("torchrelay"), *words],
            env=self.home(host), cwd=self.folder / host, capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip

    def start(self, host: str, *words: str) -> subprocess.Popen[bytes]:
        """Start the torchrelay command on a host; its output goes to a file of its own."""
        environment = self.home(host)
        log = self.folder / f"{host}-{len(self.processes)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self.network.command(host), command("torchrelay"), *words],
                env=environment, cwd=self.folder / host, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def serve_the_fleet(self) -> None:
        addresses = []
        for host in self.network.hosts:
            addresses += ["--advertise", f"tcp://{self.network.hub_address(host)}:{PORT}"]
        models = ["--model-store", str(self.store), "--models", f"{MODEL}.mar", "--enable-model-api"]
        self.start(
            HUB, "broker", "--address", f"tcp://0.0.0.0:{PORT}", *addresses, "--state-dir", "state", *models
        )
        own = self.folder / HUB / "state" / "broker.sock"
        eventually(own.exists)
        listeners = []
        for name in ("inference", "management", "metrics"):
            listeners += [f"--{name}-address", f"unix:{self.socket}"]
        gateway = self.start(HUB, "gateway", "--broker", f"ipc://{own}", *listeners)
        eventually(lambda: self.is_answered(gateway))

    def is_answered(self, gateway: subprocess.Popen[bytes]) -> bool:
        assert gateway.poll() is None, self.output()
        try:
            return self.http.get("http://localhost/livez", timeout=2).status_code == 200
        except httpx2.TransportError:
            return False

    def invite(self, *options: str) -> list[str]:
        """Return the line that is printed, as words behind `torchrelay`."""
        done = self.on(HUB, "nodes", "invite", *options, *self.on_the_hub)
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert line.startswith("torchrelay worker --join torchrelay-join-1.")
        return shlex.split(line)[1:]

    def members(self) -> dict[str, str]:
        answer = self.http.get("http://localhost/nodes")
        assert answer.status_code == 200, answer.text
        return {one["name"]: one["state"] for one in answer.json()["nodes"]}

    def answers(self) -> bool:
        answer = self.predict(MODEL, BODY, x_private=HEADER)
        return answer.status_code == 200 and answer.content == BODY


@contextmanager
def sniffed(hosts: Hosts, link: str, file: Path) -> Iterator[None]:
    """Write what crosses a link of the hub to a file."""
    command = [*hosts.network.command(HUB), sys.executable, "-c", SNIFF, link, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"sees\n"
        try:
            yield
        finally:
            process.communicate(b"\n")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("h")
    with namespaces("rack", "other", "stranger") as network:
        made = Hosts(folder, network)
        try:
            made.serve_the_fleet()
            yield made
        except BaseException:
            print(made.output())  # noqa: T201  # shown by pytest
            raise
        finally:
            made.stop()


def test_a_host_joins_by_the_printed_line_and_nothing_can_be_read_between(
    hosts: Hosts, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    with sniffed(hosts, "to1", seen):
        words = hosts.invite("--name", "rack3")
        node = hosts.start("rack", *words)
        eventually(hosts.answers)
        assert hosts.members() == {"rack3": "here"}
    crossed = seen.read_bytes()
    assert crossed.count(b"CURVE") >= 2, "both say so, in clear, and nothing after it"
    assert len(crossed) > 5_000
    for private in (HEADER.encode(), BODY, MODEL.encode(), b"rack3", words[-1].encode()):
        assert private not in crossed
    # The second start needs no invitation.
    node.terminate()
    assert node.wait(60) == 0
    hosts.start("rack", "worker")
    eventually(hosts.answers)


def test_one_without_a_key_gets_nothing(hosts: Hosts) -> None:
    address = hosts.network.hub_address("stranger")
    done = hosts.on("stranger", "worker", "--broker", f"tcp://{address}:{PORT}")
    assert done.returncode == 1
    assert "torchrelay nodes invite" in done.stderr
    probe = (
        f"import socket; s = socket.create_connection(('{address}', {PORT}), 10); s.settimeout(20)\n"
        "got = b''\n"
        "try:\n"
        "    s.sendall(b'GET /version HTTP/1.0\\r\\n\\r\\n')\n"
        "    while more := s.recv(4096): got += more\n"
        "except OSError: pass\n"
        "print(got)"
    )
    told = subprocess.run(
        [*hosts.network.command("stranger"), sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for private in ("torchrelay", "rack3", MODEL, "0.1"):
        assert private not in told
    ping = hosts.on("stranger", "ping", "--broker", f"tcp://{address}:{PORT}")
    assert "epoch" not in ping.stdout + ping.stderr


@pytest.mark.parametrize("how", ["used", "withdrawn", "expired"])
def test_an_invitation_that_is_over_lets_nobody_in_and_both_sides_say_why(hosts: Hosts, how: str) -> None:
    words = hosts.invite("--name", f"late-{how}", *(["--ttl", "1s"] if how == "expired" else []))
    path = hosts.folder / "other" / f"{how}.json"
    if how == "used":
        first = hosts.start("other", *words, "--credentials", str(path))
        eventually(lambda: hosts.members().get("late-used") == "here")
        first.terminate()
        first.wait(60)
        path.unlink()
    elif how == "withdrawn":
        listed = hosts.http.get("http://localhost/nodes/invitations").json()["invitations"]
        (own,) = [one["id"] for one in listed if one["name"] == f"late-{how}"]
        assert hosts.on(HUB, "nodes", "uninvite", own, *hosts.on_the_hub).returncode == 0
    else:
        eventually(lambda: not [
            one for one in hosts.http.get("http://localhost/nodes/invitations").json()["invitations"]
            if one["name"] == "late-expired"
        ])  # fmt: skip
    done = hosts.on("other", *words, "--credentials", str(path))
    assert done.returncode == 1
    assert "ask for a new one with `torchrelay nodes invite`" in done.stderr
    why = {"used": "has been used", "withdrawn": "has been withdrawn", "expired": "has expired"}[how]
    lines = [line for line in hosts.output().splitlines() if "peer.refused" in line and f"late-{how}" in line]
    assert [why in line for line in lines] == [True]


def test_a_revoked_host_is_cut_off_and_told_what_to_do(hosts: Hosts) -> None:
    hosts.start(
        "other", *hosts.invite("--name", "doubtful"), "--credentials", str(hosts.folder / "doubtful.json")
    )
    eventually(lambda: hosts.members().get("doubtful") == "here")
    done = hosts.on(HUB, "nodes", "revoke", "doubtful", "--yes", *hosts.on_the_hub)
    assert done.returncode == 0, done.stderr
    assert hosts.members()["doubtful"] == "revoked"
    eventually(lambda: "was revoked" in (log := hosts.output()) and "nodes invite" in log)
    eventually(lambda: "the node doubtful has been revoked" in hosts.output())


@pytest.mark.parametrize("role", ["node", "gateway"])
def test_an_autoscaled_host_that_was_forgotten_joins_anew_by_itself(hosts: Hosts, role: str) -> None:
    invited = hosts.on(HUB, f"{role}s", "invite", "--uses", "0", "--ephemeral", *hosts.on_the_hub)
    words = shlex.split(invited.stdout)[1:]
    listeners = [word for name in ("inference", "management", "metrics")
                 for word in (f"--{name}-address", f"unix:{hosts.folder}/other-{role}.sock")]  # fmt: skip
    credentials = hosts.folder / f"scaled-{role}.json"
    hosts.start("other", *words, "--credentials", str(credentials), *(listeners if role == "gateway" else []))

    def here() -> list[str]:
        members = hosts.http.get(f"http://localhost/{role}s").json()[f"{role}s"]
        return [one["name"] for one in members if one["state"] == "here" and one.get("ephemeral")]

    eventually(here)
    (name,), before = here(), credentials.read_bytes()
    forgotten = hosts.on(HUB, f"{role}s", "forget", name, "--yes", *hosts.on_the_hub)
    assert forgotten.returncode == 0, forgotten.stderr
    eventually(lambda: credentials.read_bytes() != before)
    eventually(here)


def test_a_port_that_is_nobodys_is_waited_for_and_said_to_be(hosts: Hosts) -> None:
    """The address in an invitation leads to something else: a listener that is no broker."""
    words = hosts.invite("--name", "elsewhere")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        own = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [command("torchrelay"), *words, "--broker", own, "--credentials", str(hosts.folder / "e.json")],
            env=hosts.home("other"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            assert "No broker answers" in process.stdout.readline()
        finally:
            process.kill()
            process.communicate()
