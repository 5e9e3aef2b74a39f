"""The server that is attacked: parts that join by invitations, with the broker on a port of loopback."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.attacks.plan import Target
from tests.integration import archives
from tests.integration.fleet import Fleet
from tests.support import HANG_S, eventually
from torchrelay.cli.start import broker_dialogue
from torchrelay.shared.archives import model_archive
from torchrelay.shared.wire import invitations, sockets
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.curve import Secured

#: Answers what it gets; a body that says so is answered by as many bytes as it says.
HANDLER = """
def handle(data, context):
    return data and [answer(bytes(row.get("body") or b"")) for row in data]

def answer(body):
    return bytes(int(body[7:])) if body.startswith(b"answer ") else body
"""
#: The model of honest requests, that of an attacker who has clients of the server send large answers, and one
#: whose archive is fetched in many chunks and never starts.
MODELS = ("echo", "large")
STORED = "stored"
STORED_BYTES = 64 << 20
PORT = 7700
#: The processes in the order in which they are started.
ROLES = ("broker", "gateway arbiter", "node")
#: The two models' workers and one more: no attack is to start as many processes as this machine can't run.
SLOTS = "3"


class Server:
    """A server that is as it comes, but for what an attack needs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = folder / "store"
        self._store.mkdir(parents=True)
        self._fleet = Fleet(folder, self._store)

    @property
    def parts(self) -> list[tuple[int, str]]:
        """The processes that were started, with their roles."""
        return [(process.pid, role) for process, role in zip(self._fleet.processes, ROLES, strict=False)]

    def start(self, config: Sequence[str], broker_options: Sequence[str]) -> Target:
        """Start it and wait until it answers."""
        scratch = self._folder / "scratch"
        scratch.mkdir()
        _make_archives(self._store)
        (self._folder / "config.properties").write_text("".join(f"{line}\n" for line in config))
        fleet = self._fleet
        self._start_parts(broker_options)
        for name in MODELS:
            eventually(partial(self._answers, name))
        answer = fleet.register(f"{STORED}.mar", model_name=STORED, initial_workers=0)
        assert answer.status_code == 200, answer.text
        stored = self._store / f"{STORED}.mar"
        invitation, used = self._invite("node", uses=0), self._invite("node")
        for text in (used, invitation):
            self._join(text)
        return Target(
            address=fleet.address,
            broker_port=PORT,
            store=str(self._store),
            scratch=str(scratch),
            archive=model_archive.sha256_of(stored),
            archive_bytes=stored.stat().st_size,
            worker=int(fleet.ready("echo")[0]["id"]),
            broker_key=invitations.parse(invitation).broker_key.hex(),
            node_key=self._join(invitation),
            gateway_key=self._join(self._invite("gateway")),
            probe_key=self._join(invitation),
            invitation=_secret(invitation),
            used_invitation=_secret(used),
            expired_invitation=_secret(self._invite("node", ttl=1)),
        )

    def _start_parts(self, broker_options: Sequence[str]) -> None:
        fleet, made = self._fleet, {role: self._folder / f"{role}-invitation" for role in ("gateway", "node")}
        options = [word for role, file in made.items() for word in ("--invitation-file", f"{role}={file}")]
        fleet.run(
            "broker", "--address", fleet.broker_address, "--enable-model-api", "--state-dir",
            str(self._folder / "state"), "--model-store", str(self._store), *options, *broker_options,
            "--models", *(f"{name}={name}.mar" for name in MODELS),
        )  # fmt: skip
        eventually(lambda: all(file.exists() for file in made.values()))
        joining = {
            role: ("--join-file", str(file), "--credentials", str(self._folder / f"{role}.json"))
            for role, file in made.items()
        }
        gateway = fleet.run("gateway", *joining["gateway"], "--enable-model-api", *fleet.listeners())
        fleet.run("worker", *joining["node"], "--name", "node", "--slots", SLOTS, "--device", "cpu",
                  "--cache-dir", str(self._folder / "cache"))  # fmt: skip
        fleet.wait_until_up(gateway)

    def _invite(self, role: str, **wanted: int) -> str:
        url = f"{self._fleet.management}/{role}s/invitations"
        answer = self._fleet.http.post(url, params={name: str(value) for name, value in wanted.items()})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["invitation"])

    def _join(self, text: str) -> str:
        """Join by an invitation as a host does; return the new member's secret key."""
        invitation, own = invitations.parse(text), sockets.new_key_pair()
        card = Secured(invitation.broker_key.hex(), sockets.pair_of(invitation.secret_key.hex()))
        enrol = m.Enrol(m.PROTOCOL_VERSION, own.public, "attacker")
        answer, _ = broker_dialogue.ask(self._fleet.broker_address, enrol, secured=card, timeout_s=HANG_S)
        assert isinstance(answer, m.Enrolled), answer
        return own.secret

    def stop(self) -> str:
        """Stop it; say what was wrong with that."""
        try:
            self._fleet.stop()
        except AssertionError:
            return "its processes did not stop"
        return ""

    def _answers(self, model: str) -> bool:
        return self._fleet.predict(model).status_code == 200


def _secret(invitation: str) -> str:
    return invitations.parse(invitation).secret_key.hex()


def _make_archives(store: Path) -> None:
    for name in MODELS:
        archives.make(store, name, code=HANDLER)
    weights = store.parent / "weights.bin"
    weights.write_bytes(os.urandom(STORED_BYTES))  # what can be packed small would be few chunks
    model_archive.create(store / f"{STORED}.mar", model_name=STORED, version="1.0", serialized_file=weights,
                   handler=str(store.parent / "echo-source" / "echo_handler.py"))  # fmt: skip
