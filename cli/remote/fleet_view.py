"""What `GET /fleet` answers, as structs, and the few words about it that every view shares.

Unknown fields are ignored, so that this command may be older than the server it asks.
"""

import msgspec


class _Facts(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Base: the JSON's names are in camel case."""


class Device(_Facts, frozen=True):
    """A device of a node."""

    name: str
    kind: str
    description: str = ""
    memory_bytes: int = 0


class Node(_Facts, frozen=True):
    """A node and how full it is."""

    name: str
    devices: tuple[Device, ...]
    slots: int
    slots_used: int


class Worker(_Facts, frozen=True):
    """One worker of a version."""

    id: int
    state: str
    node: str = ""
    device: str = ""
    pid: int = 0
    jobs_running: int = 0
    note: str = ""


class Quarantined(_Facts, frozen=True):
    """Requests that are refused since one with their content ended workers."""

    request_id: str
    reason: str
    workers_lost: int = 0
    refused: int = 0
    left_ms: float = 0

    def summary(self) -> str:
        """Say which, why and for how long."""
        return (
            f"requests like {self.request_id} are refused for {self.left_ms / 1000:.0f} s, {self.refused} so "
            f"far: {self.workers_lost} workers ended while they ran it ({self.reason.strip()})"
        )


class Version(_Facts, frozen=True):
    """One version of a model: what is wanted and what is there."""

    model_name: str
    model_version: str
    is_default: bool
    model_url: str
    workers_wanted: int
    workers_ready: int
    queue_depth: int = 0
    queue_limit: int = 0
    oldest_wait_ms: float = 0
    explanation: str = ""
    last_error: str = ""
    quarantined: tuple[Quarantined, ...] = ()
    workers: tuple[Worker, ...] = ()

    @property
    def label(self) -> str:
        """Name and version in one."""
        return f"{self.model_name} {self.model_version}"

    @property
    def is_ready(self) -> bool:
        """Whether every worker that is wanted is there."""
        return self.workers_ready >= self.workers_wanted

    @property
    def has_failed(self) -> bool:
        """Whether the last thing that was heard of it is an error."""
        return not self.is_ready and bool(self.last_error)

    def summary(self) -> str:
        """Say in a few words how far it is."""
        counts = f"{self.workers_ready}/{self.workers_wanted} workers ready"
        if self.is_ready:
            return counts
        if self.last_error:
            return f"{counts}: {self.last_error.strip().splitlines()[0]}"
        notes = sorted({worker.note or worker.state for worker in self.workers if worker.state != "ready"})
        return f"{counts}: {', '.join(notes) or self.explanation}" if notes or self.explanation else counts


class Fleet(_Facts, frozen=True):
    """The fleet at one moment."""

    epoch: int = 0
    uptime_s: float = 0
    gateways: int = 0
    #: Start-up archives that are neither registered nor refused yet.
    loading: tuple[str, ...] = ()
    #: Whose gateway has answered.
    server_id: str = ""
    nodes: tuple[Node, ...] = ()
    models: tuple[Version, ...] = ()
