"""What servers keep secret: from files, answers and command lines, and from the handlers that they run."""

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

from tests.installation import command
from tests.integration.archives import make_store
from tests.integration.fleet import own_address
from tests.support import eventually
from torchrelay.shared.settings import environment

pytestmark = pytest.mark.integration

#: Nobody's number on any machine.
STRANGER = 54321
KEY, PASSWORD, CLOUD = "canary-of-the-key", "canary-of-the-keystore", "canary-of-the-cloud"
VARIABLES = {
    "TORCHRELAY_MANAGEMENT_KEY": KEY,
    "AWS_SECRET_ACCESS_KEY": CLOUD,
    "STORE_PASSWORD": PASSWORD,
    "TS_KEYSTORE_PASS": PASSWORD,
}


class Server:
    """A server in a folder of its own, under a umask that takes nothing from anybody."""

    def __init__(self, folder: Path, user: int) -> None:
        self.folder, self.user = folder, user
        host = own_address()
        self.inference, self.management = f"http://{host}:8080", f"https://{host}:8443"
        self.http = httpx2.Client(timeout=60, verify=False)  # it has no authority
        make_store(folder / "models", "spy")
        (folder / "store.p12").write_bytes(keystore(host))
        self.configure("keystore_pass=$$STORE_PASSWORD$$")
        self.processes: list[subprocess.Popen[bytes]] = []

    def configure(self, *lines: str) -> None:
        addresses = [
            f"inference_address={self.inference}",
            f"management_address={self.management}",
            "enable_metrics_api=false",
            f"keystore={self.folder}/store.p12",
            "default_workers_per_model=1",
        ]
        (self.folder / "config.properties").write_text("\n".join([*addresses, *lines]))

    def start(self, *words: str) -> None:
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, self.user, self.user)
        own = {"HOME": str(self.folder), "TMPDIR": str(self.folder / "tmp"), "XDG_CACHE_HOME": ""}
        (self.folder / "tmp").mkdir(exist_ok=True)
        os.chown(self.folder / "tmp", self.user, self.user)
        with (self.folder / "output").open("ab") as output:
            self.processes.append(
                subprocess.Popen(
                    [command(words[0]), *words[1:]],
                    cwd=self.folder,
                    env={**environment(), **VARIABLES, **own},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    umask=0,
                    user=self.user,
                    group=self.user,
                    extra_groups=[],
                )
            )
        eventually(lambda: self.answers(self.processes[-1]))

    def answers(self, process: "subprocess.Popen[bytes]") -> bool:
        assert process.poll() is None, (self.folder / "output").read_text()
        try:
            return bool(self.manage("/models/spy")[0]["workers"][0]["status"] == "READY")
        except (httpx2.TransportError, LookupError):
            return False

    def manage(self, path: str) -> Any:  # whatever the API answers
        headers = {"authorization": f"Bearer {KEY}"}
        return self.http.get(f"{self.management}{path}", headers=headers).json()

    def predict(self, key: str) -> Any:  # what the handler answers
        headers = {"authorization": f"Bearer {key}"}
        return self.http.post(f"{self.inference}/predictions/spy", headers=headers).json()

    def family(self) -> list[psutil.Process]:
        first = psutil.Process(self.processes[-1].pid)
        return [first, *first.children(recursive=True)]

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        self.processes.clear()


def keystore(host: str) -> bytes:
    issued = trustme.CA().issue_cert(host)
    key = pem.load_pem_private_key(issued.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    certificate = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    locked = pem.BestAvailableEncryption(PASSWORD.encode())
    return pkcs12.serialize_key_and_certificates(b"s", key, certificate, None, locked)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may enter, which those of pytest's aren't."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def as_ordinary_user(folder: Path) -> Iterator[Server]:
    words = [command("python"), "-c", "import torchrelay.cli.main"]
    if os.geteuid() == 0 and subprocess.run(words, user=STRANGER, check=False, cwd="/").returncode:
        pytest.skip("the checkout lies where no other user may read it")
    server = Server(folder, STRANGER if os.geteuid() == 0 else os.geteuid())
    yield server
    server.stop()


@pytest.fixture
def torchserve(folder: Path) -> Iterator[Server]:
    server = Server(folder, os.geteuid())
    yield server
    server.stop()


def open_to_others(folder: Path) -> dict[str, str]:
    """Folders that others may enter, and files that they may write to, by the server's doing."""
    found = {}
    for path in folder.rglob("*"):
        facts = path.lstat()
        forbidden = 0o077 if path.is_dir() else 0o022
        if path.name == "__pycache__":
            continue  # Python makes it by the umask, in a folder that others can't enter
        if not (path.is_symlink() or path.is_socket()) and facts.st_mode & forbidden:
            found[str(path.relative_to(folder))] = oct(stat.S_IMODE(facts.st_mode))
    return found


def test_handlers_of_an_ordinary_user_find_no_secret_in_their_environment_or_any_process(
    as_ordinary_user: Server,
) -> None:
    server = as_ordinary_user
    server.start("torchrelay", "serve", "--model-store", "models", "--models", "all", "--disable-token-auth")
    seen = server.predict("none-is-asked-for")
    assert seen["pid"] in [process.pid for process in server.family()]
    assert not {KEY, PASSWORD, CLOUD} & set(seen["variables"].values())
    assert seen["found"] == []
    # Those that hold secrets: the command, broker, gateway and its process, node.
    assert len(seen["refused"]) >= 5
    assert seen["read"], "the launcher, at least, is one that holds none"
    server.stop()
    left = open_to_others(server.folder)
    assert not [name for name in left if name.startswith((".torchrelay", ".cache", "tmp/"))], left
    assert stat.S_IMODE((server.folder / ".torchrelay" / "registry.sqlite").stat().st_mode) == 0o600


def test_a_state_folder_and_a_cache_that_an_earlier_run_has_left_open_are_closed(torchserve: Server) -> None:
    folders = (torchserve.folder / ".torchrelay", torchserve.folder / ".cache" / "torchrelay")
    for folder in folders:
        (folder / "archives").mkdir(parents=True)
        folder.chmod(0o777)
    (folders[0] / "registry.sqlite").touch(0o644)
    words = ("torchrelay", "serve", "--model-store", "models", "--models", "all", "--disable-token-auth")
    torchserve.start(*words)
    torchserve.stop()
    for folder in folders:
        folder.chmod(0o755)  # what a server leaves there is known to be its own
    torchserve.start(*words)
    torchserve.stop()
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700, 0o700]
    assert stat.S_IMODE((folders[0] / "registry.sqlite").stat().st_mode) == 0o600
    assert "open to other users" not in (torchserve.folder / "output").read_text()


def test_no_secret_of_the_configuration_is_written_shown_or_handed_on(torchserve: Server) -> None:
    words = ("torchserve", "--foreground", "--model-store", "models", "--models", "spy.mar")
    torchserve.start(*words)
    shown = [torchserve.manage(path) for path in ("/fleet", "/models/spy", "/models", "/")]
    command_lines = [process.cmdline() for process in torchserve.family()]
    keys = json.loads((torchserve.folder / "key_file.json").read_text())
    seen = torchserve.predict(keys["inference"]["key"])
    torchserve.stop()
    files = [path for path in torchserve.folder.rglob("*") if path.is_file() and path.suffix != ".p12"]
    names = [path.name for path in files]
    assert {"ts_log.log", "access_log.log", "output"} <= set(names)
    assert [name for name in names if name.endswith("-shutdown.cfg")]
    everything = [json.dumps(shown), str(command_lines), *(path.read_text("latin-1") for path in files)]
    assert not [text for text in everything if PASSWORD in text or KEY in text]
    # Clients of clouds are the handlers' own affair, as in TorchServe; the server's passwords aren't.
    assert seen["variables"]["AWS_SECRET_ACCESS_KEY"] == CLOUD
    assert not {KEY, PASSWORD} & set(seen["variables"].values())
    assert seen["held"] == []
    left = open_to_others(torchserve.folder)
    assert not [name for name in left if name.startswith(("logs", "key_file", "tmp/", ".cache"))], left
    assert "node.runs_as_root" in (torchserve.folder / "output").read_text() or os.geteuid()
    # Secrets are still in the file that it was started with, and that a snapshot names.
    torchserve.start(*words[:-2])
    assert torchserve.manage("/models/spy")[0]["modelName"] == "spy"
