"""Real nodes with their launchers and workers, and the broker that a test plays for them."""

import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.support import HANG_S, eventually
from tests.worker.fake_broker import FakeBroker, Heard
from tests.worker.models import ECHO, start_worker, write_archive
from torchrelay.shared.settings import NodeSettings, environment
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

RUN = """
import sys, msgspec
from torchrelay.shared.logs import logs
from torchrelay.shared.settings import NodeSettings, environment
from torchrelay.worker.node import node
logs.configure("node", level="INFO")
sys.exit(node.run(msgspec.json.decode(sys.argv[1], type=NodeSettings)))
"""


class Fleet:
    """A fake broker and the nodes that a test starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = FakeBroker(f"ipc://{folder}/broker")
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.worker_ids = itertools.count(1)
        self.seen: set[psutil.Process] = set()
        #: What nodes have in their environment besides the test's own.
        self.variables: dict[str, str] = {}
        #: The peer id of the latest node that joined.
        self.node = b""

    def start_node(self, *, console: int | None = None, **changes: object) -> subprocess.Popen[bytes]:
        """Start a node whose log goes to a file, or to an fd."""
        settings = NodeSettings(
            **{
                "broker_address": self.broker.address,
                "name": "n",
                "cache_dir": str(self.folder / "cache"),
                # A worker's interpreter takes its time to end where the host is busy.
                "stop_grace_s": HANG_S,
                # What takes most of a node's start, and few handlers here need.
                "preload": (),
                **changes,
            }  # type: ignore[arg-type]  # a test names its own fields
        )
        log = (self.folder / "node.log").open("ab")
        node = subprocess.Popen(
            [sys.executable, "-c", RUN, settings.to_json().decode()],
            stderr=log if console is None else console,
            env=dict(environment()) | self.variables,
        )
        log.close()
        self.nodes.append(node)
        return node

    def beat(self) -> m.NodeBeat:
        """Return the node's next beat."""
        self.broker.heard.clear()
        return self.broker.expect(m.NodeBeat)[0]

    def node_log(self) -> str:
        return (self.folder / "node.log").read_text()

    def has_printed(self, worker_id: int, line: str) -> bool:
        """Tell whether the latest node's worker of this number has printed a line; others may have, too."""
        return f'worker={worker_id} line="{line}"' in self.node_log()

    def join(self) -> bytes:
        """Wait for a node to say hello; return its peer id."""
        self.node = self.broker.expect(m.HelloNode)[1].peer
        return self.node

    def greeted(self, worker_id: int) -> tuple[m.HelloWorker, Heard]:
        """Wait for a worker to say hello; others may say theirs again, whenever they miss a beat."""

        def ended() -> list[m.WorkerExited]:
            return [exited for exited in self.broker.all(m.WorkerExited) if exited.worker_id == worker_id]

        def has_come() -> bool:
            return any(hello.worker_id == worker_id for hello in self.broker.all(m.HelloWorker))

        self.broker.until(lambda: has_come() or ended())
        assert has_come(), ended()
        return self.broker.expect(m.HelloWorker, lambda hello: hello.worker_id == worker_id)

    def stop_workers(self) -> None:
        """Stop the workers of the latest node, and wait until it has none."""
        for worker_id, _ in self.beat().memory:
            self.broker.send(self.node, m.StopWorker(worker_id, True, "the test is over"))
        self.broker.expect(m.NodeBeat, lambda beat: not beat.memory)

    def note_processes(self) -> None:
        for node in self.nodes:
            if node.poll() is None:
                process = psutil.Process(node.pid)
                self.seen |= {process, *process.children(recursive=True)}

    def close(self) -> None:
        self.note_processes()
        for node in self.nodes:
            node.kill()
            node.wait(5)
        try:
            eventually(lambda: not [process for process in self.seen if is_alive(process)])
        finally:
            self.broker.close()


def launcher_of(node: psutil.Process) -> psutil.Process:
    """Return a node's launcher; it may have a reader of archives beside it."""
    [launcher] = [child for child in node.children() if "launcher" in " ".join(child.cmdline())]
    return launcher


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Loaded(NamedTuple):
    node: bytes
    worker: bytes
    hello: m.HelloWorker


def order(
    fleet: Fleet,
    code: str,
    *,
    files: Mapping[str, str] | None = None,
    manifest: Mapping[str, object] | None = None,
    **changes: object,
) -> m.StartWorker:
    """Put a handler into the broker's store; return the order to start a worker of it."""
    worker_id = next(fleet.worker_ids)
    # With its number inside no two archives are equal, and none is in the cache already.
    content = {"h.py": f"{code}\n# {worker_id}\n", **(files or {})}
    archive = write_archive(fleet.folder / f"model-{worker_id}", content, **(manifest or {}))
    name = fleet.broker.keep(archive)
    fields = {"worker_id": worker_id, "archive": name, "archive_bytes": archive.stat().st_size}
    return start_worker(**{**fields, **changes})


def load(
    fleet: Fleet,
    code: str = ECHO,
    *,
    files: Mapping[str, str] | None = None,
    manifest: Mapping[str, object] | None = None,
    **changes: object,
) -> Loaded:
    """Start a worker, on a node of its own where there is none yet."""
    if not fleet.nodes:
        fleet.start_node()
        fleet.join()
    start = order(fleet, code, files=files, manifest=manifest, **changes)
    fleet.broker.send(fleet.node, start)
    hello, item = fleet.greeted(start.worker_id)
    fleet.note_processes()
    return Loaded(fleet.node, item.peer, hello)


def submit(fleet: Fleet, worker: bytes, *bodies: bytes, lease: int = 1, is_describe: bool = False) -> None:
    items, frames = [], list[bytes]()
    for number, body in enumerate(bodies):
        meta, own = codec.pack_request(f"r{lease}-{number}", [], [("body", "", body)])
        items.append(m.AssignItem(meta, len(own)))
        frames += [bytes(one) for one in own]
    fleet.broker.send(worker, m.Assign(lease, is_describe, tuple(items)), frames)


def answers(fleet: Fleet, lease: int = 1) -> list[codec.Response]:
    completed, item = fleet.broker.expect(m.Completed, lambda message: message.lease == lease)
    parts = codec.split_frames([answer.frames for answer in completed.items], item.frames)
    responses = []
    for answer, frames in zip(completed.items, parts, strict=True):
        response, body = codec.unpack_response(answer.meta, frames)
        responses.append(codec.Response(response.status, "", (), bytes(body), response.error))
    return responses


def copies(fleet: Fleet) -> dict[str, int]:
    """Count the unpacked copies of each archive."""
    names = [entry.name.partition(".")[0] for entry in (fleet.folder / "cache" / "models").iterdir()]
    return dict(Counter(names))
