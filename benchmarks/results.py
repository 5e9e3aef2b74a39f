"""What a run found, as plain data: the JSON file beside the report, and all that the report is made of."""

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the records."""


def as_json(record: Record) -> bytes:
    """Write a record as it is kept in a file, a line for each value."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


class Machine(Record, frozen=True, kw_only=True):
    """Where a run took place; `versions` is package -> version, for what differs between runs."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    #: Its version and how it was built, which counts as much.
    python: str
    versions: dict[str, str]

    @property
    def in_words(self) -> str:
        """What of it every figure depends on."""
        return f"{self.cpu}, {self.cores} cores for everything, Python {self.python}"


class RunPlan(Record, frozen=True, kw_only=True):
    """How long and how often; the defaults are the ones to publish."""

    seconds: float = 5.0
    warmup_seconds: float = 15.0
    rounds: int = 4
    start_rounds: int = 3
    connections: tuple[int, ...] = (1, 16, 64, 256)
    batch_size: int = 16
    max_batch_delay_ms: int = 1
    job_queue_size: int = 1024
    #: torchrelay's.
    gateway_processes: int = 1
    #: Further lines of config.properties.
    properties: tuple[str, ...] = ()


class StartUp(Record, frozen=True, kw_only=True):
    """One start; times from the command to the line, and to the first prediction with status 200."""

    server: str
    is_cold: bool
    started_s: float
    predicted_s: float
    #: What each kind of process had taken of the CPU when the first prediction came.
    cpu_s: dict[str, float] = {}


class ProcessFacts(Record, frozen=True, kw_only=True):
    """One process of an idle server; `pss_bytes` counts shared pages by share, None where unreadable."""

    server: str
    role: str
    rss_bytes: int
    pss_bytes: int | None
    has_torch: bool


class Load(Record, frozen=True, kw_only=True):
    """What the load generator counted in one run; latencies in microseconds."""

    requests: int
    duration_us: int
    p50_us: float
    p99_us: float
    #: Answers with a status of 400 or more.
    refused: int
    #: Failed connects, reads and writes, and answers that took too long.
    broken: int

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.requests / self.duration_us * 1e6

    @property
    def errors(self) -> int:
        """Everything that is not a good answer."""
        return self.refused + self.broken


class Check(Record, frozen=True, kw_only=True):
    """A run before the timed ones in which every body was different and every answer was compared."""

    server: str
    connections: int
    answers: int
    wrong: int


class Point(Record, frozen=True, kw_only=True):
    """One timed run, and the CPU seconds that each kind of process took during it."""

    server: str
    connections: int
    turn: int
    load: Load
    cpu_s: dict[str, float]


class EncryptionPoint(Point, frozen=True, kw_only=True):
    """A timed run of a fleet of one kind; `gateway` says how that reaches the broker."""

    gateway: str
    body_bytes: int


class EncryptionResults(Record, frozen=True, kw_only=True):
    """What `benchmarks.encryption` found; a point's server is `plain` or `secured`."""

    taken_at: str
    command: str
    revision: str
    machine: Machine
    plan: RunPlan
    checks: tuple[Check, ...] = ()
    points: tuple[EncryptionPoint, ...] = ()


class PeerRow(Record, frozen=True, kw_only=True):
    """A row that was measured."""

    key: str
    label: str
    connections: tuple[int, ...]
    batch_size: int
    max_batch_delay_ms: int
    workers: int


class PeerCheck(Check, frozen=True, kw_only=True):
    """A check of a server in a row."""

    row: str


class PeerPoint(Point, frozen=True, kw_only=True):
    """A timed run of a server in a row; rows, connections and turns are alike for those that are compared."""

    row: str
    #: Of all cores' time, the share that neither the server nor the load generator took but others did.
    others_share: float = 0.0


class PeerMemory(Record, frozen=True, kw_only=True):
    """What a server's processes take after the warm-up of a row; `pss_bytes` is None where unreadable."""

    row: str
    server: str
    processes: int
    rss_bytes: int
    pss_bytes: int | None


class PeerAbsence(Record, frozen=True, kw_only=True):
    """A server that could not be measured in a row, and why."""

    row: str
    server: str
    reason: str


class PeerServer(Record, frozen=True, kw_only=True):
    """A server that takes part: how it is set, and what is installed in its environment."""

    label: str
    options: str
    versions: dict[str, str]


class PeerResults(Record, frozen=True, kw_only=True):
    """What `benchmarks.peers` found; `servers` has the one of interest first."""

    taken_at: str
    command: str
    revision: str
    machine: Machine
    plan: RunPlan
    #: Load average when the run began: what else the machine did.
    load_before: float
    seconds: float
    servers: dict[str, PeerServer]
    rows: tuple[PeerRow, ...] = ()
    checks: tuple[PeerCheck, ...] = ()
    points: tuple[PeerPoint, ...] = ()
    memory: tuple[PeerMemory, ...] = ()
    absences: tuple[PeerAbsence, ...] = ()


class Loop(Record, frozen=True, kw_only=True):
    """Work done in a plain loop inside one process, without sockets."""

    what: str
    jobs_per_call: int
    us_per_job: float


class FleetRow(Record, frozen=True, kw_only=True):
    """What one thing took in the broker's core of a fleet of so many models x workers, in CPU time."""

    fleet: str
    what: str
    turns: int
    #: Microseconds for each of what was done: a worker, a job, a beat, a question.
    us_each: float
    #: Of these, those in which the core decided; in the others messages were read and written.
    deciding_us_each: float
    longest_ms: float


class FleetResults(Record, frozen=True, kw_only=True):
    """What `benchmarks.fleets` found."""

    taken_at: str
    command: str
    revision: str
    machine: Machine
    rows: tuple[FleetRow, ...]


class ArrivalPlan(Record, frozen=True, kw_only=True):
    """How requests come to a model whose batches take so long; the defaults are the ones to publish."""

    seconds: float = 3.5
    #: Before that, with the same load, nothing counts.
    settling_s: float = 0.5
    warmup_seconds: float = 3.0
    rounds: int = 3
    delays_ms: tuple[int, ...] = (1, 50, 100)
    #: Percent of what full batches of one worker are.
    loads_percent: tuple[int, ...] = (10, 50, 90)
    #: Clients that ask again as soon as they are answered.
    clients: tuple[int, ...] = (1, 8)
    batch_size: int = 16
    batch_ms: float = 4.0
    row_ms: float = 1.0
    seed: int = 11


class ArrivalPoint(Record, frozen=True, kw_only=True):
    """One timed run with jobs that come by a Poisson process, or from clients that wait for their answers."""

    server: str
    delay_ms: int
    #: One of them is 0.
    load_percent: int
    clients: int
    turn: int
    #: In `seconds`; of these so many were answered rightly.
    asked: int
    answered: int
    seconds: float
    p50_us: float
    p99_us: float
    #: How late the load generator was with 99 of 100.
    late_p99_us: float


class ArrivalResults(Record, frozen=True, kw_only=True):
    """What `benchmarks.arrivals` found; `servers` is key -> label, the one of interest first."""

    taken_at: str
    command: str
    revision: str
    machine: Machine
    plan: ArrivalPlan
    load_before: float
    servers: dict[str, str]
    points: tuple[ArrivalPoint, ...] = ()


class StartupPlan(Record, frozen=True, kw_only=True):
    """How often servers are started, and how many replicas of a model; the defaults are those to publish."""

    start_rounds: int = 3
    replicas: int = 60


class ReplicaRun(Record, frozen=True, kw_only=True):
    """Replicas of a model that were started at once; bytes of each process, None where unreadable."""

    server: str
    model: str
    replicas: int
    #: From the registration until all are ready.
    ready_s: float
    private_bytes: tuple[int | None, ...]
    pss_bytes: tuple[int | None, ...]


class StartupResults(Record, frozen=True, kw_only=True):
    """What `benchmarks.startup` found; `servers` is key -> label, the one of interest first."""

    taken_at: str
    command: str
    revision: str
    machine: Machine
    plan: StartupPlan
    load_before: float
    servers: dict[str, str]
    starts: tuple[StartUp, ...] = ()
    replicas: tuple[ReplicaRun, ...] = ()


class GpuPlan(Record, frozen=True, kw_only=True):
    """A network, its batches and how long they are timed; the defaults are ResNet-18's, and to publish."""

    seconds: float = 4.0
    warmup_seconds: float = 4.0
    rounds: int = 3
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    #: Of the images, in pixels either way.
    size: int = 224
    width: int = 64
    classes: int = 1000


class GpuPoint(Record, frozen=True, kw_only=True):
    """A timed run of the server, of the loop that begins with bytes, or with images on the device."""

    batch_size: int
    turn: int
    #: `server`, `bytes` or `device`.
    what: str
    load: Load
    #: Of the server's processes.
    cpu_s: dict[str, float] = {}


class GpuResults(Record, frozen=True, kw_only=True):
    """What `benchmarks.gpu` found; `device` is what the GPU is called."""

    taken_at: str
    command: str
    revision: str
    machine: Machine
    device: str
    plan: GpuPlan
    load_before: float
    #: Answers of the server that the loop doesn't give.
    wrong: int
    points: tuple[GpuPoint, ...] = ()


class Results(Record, frozen=True, kw_only=True):
    """One run of all benchmarks; `servers` is key -> label, the one of interest first."""

    taken_at: str
    command: str
    revision: str
    machine: Machine
    plan: RunPlan
    servers: dict[str, str]
    starts: tuple[StartUp, ...] = ()
    processes: tuple[ProcessFacts, ...] = ()
    checks: tuple[Check, ...] = ()
    points: tuple[Point, ...] = ()
    loops: tuple[Loop, ...] = ()
