"""A worker as the broker knows it. Pure; what becomes of one, `worker_lifecycle` decides."""

from dataclasses import dataclass, field

from torchrelay.broker.core.states import WORKER_MOVES, WorkerState
from torchrelay.broker.fleet.nodes import gpu_id
from torchrelay.broker.jobs.queues import Lease
from torchrelay.broker.models.catalog import Key
from torchrelay.shared.wire.serials import InOrder

#: What is noted of a worker in the phases that startup_timeout is for, from the first to the last.
LOADING_NOTES = {"loading": "loading", "warming": "warming", "waiting": "waiting for is_ready()"}


@dataclass(slots=True, eq=False)
class FleetWorker:
    """One replica, from the order to start it until its process is gone."""

    worker_id: int
    key: Key
    archive: str
    device: str
    node_name: str
    #: The node's peer id; None while a worker is here before its node is (after a broker's restart).
    node: bytes | None
    state: WorkerState
    #: When it came into `state`.
    since: float
    last_heard: float
    #: When the broker first knew of it.
    started_at: float = field(init=False)
    #: Its own peer id, once it has said hello.
    peer: bytes | None = None
    pid: int = -1
    memory_bytes: int = 0
    note: str = ""
    #: Its connection was found broken, and it has not been heard since: it gets no batch.
    is_cut: bool = False
    #: In the order they were given; which of them run, each says.
    leases: list[Lease] = field(default_factory=list)
    last_assigned_at: float = 0.0
    #: Which of its answers have come.
    answers: InOrder = field(default_factory=InOrder)
    #: Leases of a broker before this one, which its hello named, are its to answer.
    keeps_leases: bool = False
    #: Whether its protocol has batches that are sent ahead in one message.
    takes_ahead: bool = False
    #: While draining: when patience ends. None waits for the batch however long it takes.
    drain_until: float | None = None
    #: All its devices, `device` first; () where a node of an earlier version holds it.
    devices: tuple[str, ...] = ()
    #: What is kept for it on each of them, since it was placed there.
    reserved_bytes: int = 0
    #: When it had loaded its model: it uses what it needs since then.
    loaded_at: float | None = None
    #: Another is started in its place, on a node that has come back; it goes once that one is ready.
    is_moving: bool = False
    #: The order to stop it went out at, for repeating it should it get lost.
    stop_sent_at: float = 0.0
    #: It has answered a batch, whatever it said.
    has_answered: bool = False
    #: It ends once what its archive requires is installed, and counts towards no target.
    installs_only: bool = False
    #: Where it is noted that something has changed which ranks or counts it, see `version_workers`.
    touched: "dict[FleetWorker, None]" = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started_at = self.since

    def move(self, new: WorkerState, now: float) -> None:
        """Change the state by the table of legal moves."""
        assert new in WORKER_MOVES[self.state], f"illegal move {self.state} -> {new}: {self}"
        self.state = new
        self.since = now
        self.touch()
        if new is WorkerState.READY and self.loaded_at is None:
            self.loaded_at = now

    def touch(self) -> None:
        """Note that its state, leases, node, or whether it can be reached or has answered, has changed."""
        self.touched[self] = None

    @property
    def all_devices(self) -> tuple[str, ...]:
        """All devices that it runs on, as far as they are known."""
        return self.devices or (self.device,)

    @property
    def is_loading(self) -> bool:
        """Whether it was last heard to load its model, to be warmed, or to wait for its handler."""
        return self.note in LOADING_NOTES.values()

    @property
    def metrics_label(self) -> str:
        """What TorchServe calls it in its metrics."""
        model, version = self.key
        return f"W-{self.worker_id}-{model}_{version}"

    @property
    def gpu_id(self) -> int | None:
        """The number of its GPU, None on a cpu."""
        return gpu_id(self.device)

    @property
    def gpu_ids(self) -> tuple[int, ...]:
        """The numbers of all its GPUs."""
        return tuple(number for device in self.devices if (number := gpu_id(device)) is not None)
