"""The fault matrix: what is done to whom, or why that makes no sense. Every pair is here."""

from typing import Literal

import msgspec

FAULTS = (
    "SIGKILL", "SIGSTOP", "SIGTERM", "os._exit", "hang", "hang with GIL", "out of memory", "segfault",
    "link cut", "link slow", "corrupted bytes", "disk full", "read-only disk", "file descriptors",
    "clock jump", "garbage peer", "stale lease", "duplicate", "revoked key",
)  # fmt: skip
BROKER_DEADLINE_S = 20.0
TARGETS = ("gateway process", "arbiter", "broker", "node", "launcher", "worker", "registry")

NONE: frozenset[str] = frozenset()
Need = Literal["memory cgroup", "mount"]


class Cell(msgspec.Struct, frozen=True):
    """One fault of one target, as it is run."""

    fault: str
    target: str
    #: How long it lasts, where it isn't over at once.
    seconds: float = 0.0
    #: Ends of requests, beside an answer, that break no promise here.
    tolerates: frozenset[str] = NONE
    #: What each request is given.
    deadline_s: float = 8.0
    needs: Need | None = None
    #: Whether `make test` runs it; `make matrix` runs all.
    is_quick: bool = False
    runs_max: int = 2

    @property
    def name(self) -> str:
        return f"{self.fault}-{self.target}".replace(" ", "_")


#: Ends of a process that it has no say in.
_DEATHS = ("SIGKILL", "os._exit", "segfault", "out of memory")
_PROCESSES = TARGETS[:-1]
#: Who a request's connection ends with. A client that finds nobody listening has lost nothing: it asks again.
_LOST_WITH = {
    "gateway process": frozenset({"broken"}),
    "arbiter": frozenset({"broken", "not taken"}),
}
#: What a worker has not answered within response_timeout is refused: it isn't tried again, its time is over.
_TIME_OVER = {"worker": frozenset({"refused"})}
#: libuv, which takes the connections, closes those that there is no file descriptor for.
_NO_ROOM = {"gateway process": frozenset({"broken"})}
_WITH_THE_BROKER = "the broker's own column, with changes under way all the while"
_NO_LINK = "has no connection of its own: "
_WRITES_NOTHING = "writes no file: "

_REASONS = {
    ("os._exit", "registry"): _WITH_THE_BROKER,
    ("SIGSTOP", "registry"): "a file that others hold is the row `hang`",
    ("SIGTERM", "registry"): _WITH_THE_BROKER,
    ("hang with GIL", "registry"): _WITH_THE_BROKER,
    ("segfault", "registry"): _WITH_THE_BROKER,
    ("out of memory", "registry"): _WITH_THE_BROKER,
    ("link cut", "arbiter"): _NO_LINK + "its processes have one each",
    ("link cut", "launcher"): _NO_LINK + "a socket pair with its node",
    ("link cut", "registry"): _NO_LINK + "a file on the broker's disk",
    ("link slow", "arbiter"): _NO_LINK + "its processes have one each",
    ("link slow", "launcher"): _NO_LINK + "a socket pair with its node",
    ("link slow", "registry"): _NO_LINK + "a file on the broker's disk",
    ("corrupted bytes", "arbiter"): _NO_LINK + "its processes have one each",
    ("corrupted bytes", "launcher"): _NO_LINK + "a socket pair with its node",
    ("disk full", "gateway process"): _WRITES_NOTHING + "its log goes to stderr",
    ("disk full", "arbiter"): _WRITES_NOTHING + "its log goes to stderr",
    ("disk full", "broker"): "its disk is the registry's",
    ("disk full", "launcher"): _WRITES_NOTHING + "orders come in memory",
    ("disk full", "worker"): _WRITES_NOTHING + "what handlers write is theirs",
    ("read-only disk", "gateway process"): _WRITES_NOTHING + "its log goes to stderr",
    ("read-only disk", "arbiter"): _WRITES_NOTHING + "its log goes to stderr",
    ("read-only disk", "broker"): "its disk is the registry's",
    ("read-only disk", "launcher"): _WRITES_NOTHING + "orders come in memory",
    ("read-only disk", "worker"): _WRITES_NOTHING + "what handlers write is theirs",
    ("file descriptors", "registry"): _WITH_THE_BROKER,
    ("clock jump", "registry"): _WITH_THE_BROKER,
    ("garbage peer", "arbiter"): "takes no connection: its processes do",
    ("garbage peer", "node"): "dials out, and listens nowhere",
    ("garbage peer", "launcher"): "listens nowhere: a socket pair with its node",
    ("garbage peer", "worker"): "dials out, and listens nowhere",
    ("garbage peer", "registry"): "is opened by the broker alone",
    ("stale lease", "gateway process"): "has no lease: workers do",
    ("stale lease", "arbiter"): "has no lease: workers do",
    ("stale lease", "launcher"): "has no lease: workers do",
    ("duplicate", "launcher"): "is started by its node, once",
    ("revoked key", "arbiter"): "has no key: its processes use the gateway's",
    ("revoked key", "launcher"): "has no key: it is never told one",
}  # fmt: skip

_RUN = (
    *(
        Cell(fault, target, tolerates=_LOST_WITH.get(target, NONE), is_quick=fault == "SIGKILL",
             needs="memory cgroup" if fault == "out of memory" else None)
        for fault in _DEATHS for target in _PROCESSES
    ),
    Cell("SIGKILL", "registry", is_quick=True),
    *(
        Cell("SIGSTOP", target, seconds=3.0, is_quick=target in ("broker", "worker"))
        for target in _PROCESSES
    ),
    Cell("SIGTERM", "gateway process"),
    Cell("SIGTERM", "arbiter", tolerates=frozenset({"not taken"}), is_quick=True),
    *(
        Cell("SIGTERM", target, is_quick=target == "node")
        for target in ("broker", "node", "launcher", "worker")
    ),
    *(
        Cell(fault, target, seconds=seconds, is_quick=target == "worker",
             tolerates=_TIME_OVER.get(target, NONE))
        for fault in ("hang", "hang with GIL")
        for target, seconds in (("gateway process", 3.0), ("arbiter", 3.0), ("broker", 4.0), ("node", 5.0),
                                ("launcher", 3.0), ("worker", 600.0))
    ),
    Cell("hang", "registry", seconds=3.0),
    *(
        Cell("link cut", target, seconds=4.0, is_quick=target == "broker")
        for target in ("gateway process", "broker", "node", "worker")
    ),
    *(
        Cell("link slow", target, seconds=4.0)
        for target in ("gateway process", "broker", "node", "worker")
    ),
    *(
        Cell("corrupted bytes", target, seconds=2.0)
        for target in ("gateway process", "broker", "node", "worker")
    ),
    Cell("corrupted bytes", "registry", seconds=1.0),
    Cell("disk full", "node", needs="mount"),
    Cell("disk full", "registry", seconds=3.0, needs="mount", is_quick=True),
    Cell("read-only disk", "node", seconds=4.0, needs="mount"),
    Cell("read-only disk", "registry", seconds=3.0, needs="mount"),
    *(
        Cell("file descriptors", target, seconds=3.0, is_quick=target == "broker",
             tolerates=_NO_ROOM.get(target, NONE))
        for target in _PROCESSES
    ),
    *(Cell("clock jump", target, seconds=2.0, is_quick=target == "broker") for target in _PROCESSES),
    Cell("garbage peer", "gateway process", seconds=2.0),
    Cell("garbage peer", "broker", seconds=2.0, is_quick=True),
    Cell("stale lease", "broker", seconds=1.0),
    Cell("stale lease", "node", seconds=5.0),
    Cell("stale lease", "worker", seconds=6.5, is_quick=True, tolerates=_TIME_OVER["worker"]),
    Cell("stale lease", "registry", seconds=2.0),
    *(Cell("duplicate", target, seconds=2.0) for target in ("gateway process", "broker", "node", "worker")),
    Cell("duplicate", "arbiter"),
    Cell("duplicate", "registry", is_quick=True),
    Cell("revoked key", "gateway process", tolerates=_LOST_WITH["arbiter"] | {"refused"}),
    *(Cell("revoked key", target) for target in ("broker", "node", "worker")),
    # Its worker is lost, and then the broker.
    Cell("revoked key", "registry", runs_max=3),
)  # fmt: skip

#: Each pair of a fault and a target: how it is run, or why it isn't.
MATRIX: dict[tuple[str, str], Cell | str] = {
    **_REASONS,
    **{(cell.fault, cell.target): cell for cell in _RUN},
}


def cells() -> list[Cell]:
    """Return those that are run, in the order of the table."""
    pairs = ((fault, target) for fault in FAULTS for target in TARGETS)
    found = (MATRIX[pair] for pair in pairs)
    return [_with_time(cell) for cell in found if isinstance(cell, Cell)]


def _with_time(cell: Cell) -> Cell:
    """Give requests the time that a broker's start may take on a slow machine: all of them wait for it."""
    if cell.target not in ("broker", "registry"):
        return cell
    return msgspec.structs.replace(cell, deadline_s=BROKER_DEADLINE_S)
