"""Settings of each process: frozen structs, made once at start and handed down.

Where they come from, strongest first: environment (only if config.properties says
`enable_envvars_config=true`), command line, config.properties, the defaults here. They are merged in
`cli/start/part_settings.py`; this file has only the fields, their defaults, and the reason for each.
"""

import ipaddress
import os
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from torchrelay.shared.wire.fields import SLOTS_LIMIT, KeyedApi, Name

Positive = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
PositiveSeconds = Annotated[float, msgspec.Meta(gt=0)]

#: Where a broker is that nobody has named. The commands always name one: the user's own, see `--broker`.
DEFAULT_BROKER_ADDRESS = "ipc://torchrelay/broker.sock"
#: The largest body: TorchServe's sizes are numbers of 32 bits. `sockets.PART_LIMIT_BYTES` lets it through.
BODY_LIMIT_BYTES = 2**31 - 1
#: Bytes that wait in the broker's queues unless told otherwise.
QUEUE_LIMIT_BYTES = 1 << 30
#: What a gateway process takes in beside one body of max_request_size unless told otherwise.
_IN_FLIGHT_BYTES = 256 << 20
#: What reading an archive may take: seconds of cpu time, beside one for each 2 MiB of it, and address space.
#: A hundred thousand entries need a third of either, the largest model config a fifth of the time.
ARCHIVE_TIME_LIMIT_S = 60.0
ARCHIVE_MEMORY_LIMIT_BYTES = 512 << 20
#: What a gateway process keeps of answers for slow clients unless told otherwise.
UNSENT_BYTES = 128 << 20
#: How much a node keeps of models and environments unless told otherwise.
DEFAULT_CACHE_LIMIT_BYTES = 200_000_000_000


class SettingsError(ValueError):
    """Settings that can't work; the message has a line for each fault."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the settings; reads and writes JSON, so that one process can hand them to another."""

    def to_json(self) -> bytes:
        """Write all fields as JSON."""
        return msgspec.json.encode(self)


class LoadAtStart(msgspec.Struct, frozen=True):
    """One model of `--models` / `load_models`: an archive's url, and a name if one was given."""

    url: str
    name: str | None = None


class StartupModel(msgspec.Struct, frozen=True):
    """One entry of config.properties' `models={...}`, or of a snapshot; None where it says nothing."""

    name: str
    version: str
    archive_name: str | None = None
    is_default: bool = False
    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int | None = None
    startup_timeout_s: int | None = None
    runtime: str | None = None


class StaticKey(msgspec.Struct, frozen=True):
    """A key that somebody else keeps: it neither expires nor can be renewed here."""

    api: KeyedApi
    name: str
    #: Visible ASCII, since it has to fit a header; see `is_guessable_key`.
    key: Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{16,}\Z")]


#: Characters of a key, and different pairs of neighbours among them that are no run such as `34` or `aa`.
KEY_LENGTH_MIN = 16
KEY_PAIRS_MIN = 8


def is_guessable_key(key: str) -> bool:
    """Tell whether a key is short, or little else than runs and repetitions, as `password12345678`."""
    repeated = key[: (key + key).find(key, 1)]
    pairs = {pair for pair in pairwise(key) if abs(ord(pair[0]) - ord(pair[1])) > 1}
    return len(repeated) < KEY_LENGTH_MIN or len(pairs) < KEY_PAIRS_MIN


class LogLimits(msgspec.Struct, frozen=True):
    """How long a log's file may become, and how many older ones are kept; TorchServe's defaults.

    With 0 bytes it is never moved away: somebody else sees to that.
    """

    file_bytes: NotNegative = 100 << 20
    files: NotNegative = 5


DEFAULT_LOG_LIMITS = LogLimits()


class BrokerSettings(Settings, frozen=True, kw_only=True):
    """The broker's settings."""

    #: Addresses to bind, tcp:// or ipc://. Several may be given: ipc for this user, tcp for others.
    addresses: tuple[str, ...] = (DEFAULT_BROKER_ADDRESS,)
    #: Holds the registry (SQLite) and the archives by content.
    state_dir: str
    #: Folder of local archives, and of what is fetched from urls; without it nothing can be registered.
    model_store: str | None = None
    #: Whether folders of the model store are used where they are, as in TorchServe; all nodes must be on this
    #: host then. Else a folder is packed when it is registered, and sent to nodes.
    folders_in_place: bool = False
    #: Whether archives whose workers start at once are unpacked from the model store, and not kept in
    #: state_dir as well: where all nodes are on this host, and the state goes with the broker.
    archives_in_place: bool = False
    #: Folders that links of a model's folder may lead to when it is packed, beside that folder itself.
    link_targets: tuple[str, ...] = ()
    #: Folders of this host that are no models, whatever lies in them: the cache, logs.
    private_folders: tuple[str, ...] = ()
    #: What is registered at start. One named `all` stands for every archive of the model store.
    load_models: tuple[LoadAtStart, ...] = ()
    #: What config.properties says of models in its `models`; used when one of them is registered.
    models: tuple[StartupModel, ...] = ()
    #: Models of a TorchServe snapshot, registered at start instead of load_models; None without one.
    snapshot: tuple[StartupModel, ...] | None = None
    #: Folder that gets a snapshot as TorchServe writes them at every change; None gets none, since the
    #: registry keeps it all.
    snapshot_dir: str | None = None
    #: What a snapshot repeats of the configuration, by TorchServe's keys.
    snapshot_config: tuple[tuple[str, str], ...] = ()
    #: Beats let both sides notice a death; 0.5 s finds one within a few seconds at no cost that shows.
    beat_interval_s: PositiveSeconds = 0.5
    #: Silence after which a peer is lost. Six beats: one lost packet or a long pause isn't a death.
    peer_timeout_s: PositiveSeconds = 3.0
    #: TorchServe's job_queue_size and its default: jobs waiting per model version.
    job_queue_size: Positive = 100
    #: Bytes waiting over all queues; memory, unlike a count, is what runs out. A job that finds nothing
    #: waiting is taken whatever its size. The commands raise it with max_request_size, to what a gateway
    #: lets in.
    queue_limit_bytes: Positive = QUEUE_LIMIT_BYTES
    #: Above this, memory is taken back by cutting the connection that holds most; 0 takes half of the host's,
    #: or of the cgroup's, or more if queue_limit_bytes and 1 GiB beside it need it, up to nine tenths.
    memory_limit_bytes: NotNegative = 0
    #: Tries per job, so that one job can't bring down worker after worker.
    attempt_limit: Positive = 2
    #: How long requests are refused whose content has ended as many workers as a job has tries, two at
    #: least; 0 refuses none. Long enough for somebody to look into it, short enough should it be wrong.
    quarantine_s: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    #: How long a worker may take to answer a batch; TorchServe's default, as are the next two.
    default_response_timeout_s: Positive = 120
    #: How long a worker may take to load its model.
    default_startup_timeout_s: Positive = 120
    #: Workers of a model for which nobody said a number.
    default_workers_per_model: NotNegative = 0
    #: Workers that one version of a model may be told to have; TorchServe has no bound.
    workers_limit: Positive = 1000
    #: Workers of a model loaded at start, where default_workers_per_model is 0. TorchServe takes the
    #: number of GPUs, or of cpus; `torchrelay serve` sets this so.
    startup_workers_per_model: Positive = 1
    #: TorchServe's maxRetryTimeoutInSec: how long a crashing worker is started again and again.
    restart_window_s: Positive = 300
    #: How long a restarted broker waits for nodes it knew before it starts workers in their place.
    settle_s: PositiveSeconds = 5.0
    #: register and unregister are refused (405) unless this is set, whatever gateway asks.
    enable_model_api: bool = False
    #: How long the caller of an unregistration waits for the workers to be gone; TorchServe's default.
    unregister_timeout_s: NotNegative = 120
    #: How long a worker may go on with a batch when it is told to stop.
    stop_grace_s: PositiveSeconds = 5.0
    #: Regexes for the whole url without user and fragment, case-insensitive; TorchServe's default. What one
    #: has between `://` and the next slash must match host and port. See also allow_private_urls.
    allowed_urls: tuple[str, ...] = ("file://.*|http(s)?://.*",)
    #: Urls on private, loopback or link-local addresses are refused unless this is set, or a pattern of
    #: allowed_urls spells the host: a server that fetches any address it is told to is a way into the
    #: network it stands in.
    allow_private_urls: bool = False
    #: The largest archive that is fetched from a url.
    download_limit_bytes: Positive = 64 << 30
    #: Silence of an archive's server after which a download has failed.
    download_timeout_s: PositiveSeconds = 30.0
    #: What an archive's server must send at least, over download_grace_s: less stops the download. A slow
    #: line has ten times as much.
    download_min_bytes_per_s: Positive = 64 << 10
    #: How long a download may be behind that, and how long until its first byte, redirects included: it
    #: takes this and its size by that rate at most.
    download_grace_s: PositiveSeconds = 60.0
    #: Seconds of cpu time that reading an archive may take, beside one for each 2 MiB of it; it may last five
    #: times as long. That is done by a process of its own, which ends then.
    archive_time_limit_s: PositiveSeconds = ARCHIVE_TIME_LIMIT_S
    #: Address space of that process.
    archive_memory_limit_bytes: Positive = ARCHIVE_MEMORY_LIMIT_BYTES
    #: Handler of archives whose manifest names none.
    default_service_handler: str = ""
    #: Envelope around the requests of all models: `body`, `json`, `kserve`, `kservev2`, or a module.
    service_envelope: str = ""
    #: Whether handlers get JSON and text bodies decoded.
    decode_input_request: bool = True
    #: Handed to handlers, which may lift Pillow's limit where it is false.
    limit_max_image_pixels: bool = True
    #: The largest answer of a worker; TorchServe's default.
    max_response_size: Annotated[int, msgspec.Meta(ge=1, le=BODY_LIMIT_BYTES)] = 6_553_500
    #: Whether a worker's environment gets what its archive's requirements name. Off as in TorchServe:
    #: it runs whatever an index serves.
    install_py_dep_per_model: bool = False
    #: Where TorchServe's metrics go: `prometheus` to the metrics API, `log` to files in metrics_log_dir,
    #: `legacy` its three counters to the API and the rest to files.
    metrics_mode: Literal["prometheus", "log", "legacy"] = "prometheus"
    #: Folder of ts_metrics.log and model_metrics.log; without it they aren't written.
    metrics_log_dir: str | None = None
    #: When those files are moved away, and how many of each are kept.
    log_limits: LogLimits = LogLimits()
    #: TorchServe's metrics.yaml; the built-in one lists the same metrics as TorchServe's.
    metrics_config: str | None = None
    #: Whether metrics of handlers that metrics_config doesn't list are taken as they come.
    model_metrics_auto_detect: bool = False
    #: Whether torchrelay_* metrics stand beside TorchServe's at the metrics API, in every metrics_mode.
    own_metrics: bool = True
    #: Whether keys for the APIs are made; see also GatewaySettings.token_authorization.
    token_authorization: bool = False
    #: Life of a key that was made here.
    token_expiration_min: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    #: How long the key before the newest still opens; TorchServe gives it no time at all.
    token_overlap_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    #: Where keys made here are written (mode 0600) as TorchServe's key_file.json; None keeps them secret.
    key_file: str | None = None
    #: Keys from the environment or a secrets file.
    static_keys: tuple[StaticKey, ...] = ()
    #: Lets the broker bind to an address that other users or hosts can reach, without encryption or keys.
    insecure: bool = False


class GatewaySettings(Settings, frozen=True, kw_only=True):
    """The gateway's settings. Addresses are TorchServe's: http://HOST[:PORT]."""

    #: Where the broker listens.
    broker_address: str = DEFAULT_BROKER_ADDRESS
    #: Listens for predictions, explanations and `/ping`.
    inference_address: str = "http://127.0.0.1:8080"
    #: Listens for registering, scaling, describing; may be the same as inference_address.
    management_address: str = "http://127.0.0.1:8081"
    #: Listens for Prometheus.
    metrics_address: str = "http://127.0.0.1:8082"
    #: One process does several thousand requests/s; more only pay where there are cores to spare.
    processes: Positive = 1
    #: TorchServe's default, which is exact: a body of this many bytes is taken.
    max_request_size: Annotated[int, msgspec.Meta(ge=1, le=BODY_LIMIT_BYTES)] = 6_553_500
    #: Jobs waiting for an answer, per process. Above it the answer is 503 at once.
    in_flight_limit_jobs: Positive = 2048
    #: Bytes of the bodies of those jobs, and of what has come of others, per process; 0 takes 256 MiB more
    #: than max_request_size.
    in_flight_limit_bytes: NotNegative = 0
    #: Open connections, per process. For one more, those go that have asked for nothing yet or are slow, then
    #: those that are idle; requests that are being answered go for nobody.
    connection_limit: Positive = 4096
    #: How long the head of a request may take to come.
    head_timeout_s: PositiveSeconds = 30.0
    #: Bytes per second in which bodies must come and answers be taken, on the whole; a tenth of what a
    #: modem does.
    client_least_rate: Positive = 500
    #: How long a client may stop, or stay behind that rate, before it is let go.
    client_stall_s: PositiveSeconds = 60.0
    #: Bytes of answers that clients have not taken yet, and of requests that wait behind those, per process.
    #: Above it the slowest clients are let go. 0 takes 128 MiB; the commands raise it to four of the largest
    #: answers.
    unsent_limit_bytes: NotNegative = 0
    #: How long requests wait for a broker that is away before they are answered 503.
    broker_outage_limit_s: PositiveSeconds = 30.0
    #: Open requests may go on this long after SIGTERM.
    graceful_timeout_s: Positive = 4
    #: register and unregister are refused (405) unless this is set, here and at the broker.
    enable_model_api: bool = False
    #: Whether the metrics port is opened.
    enable_metrics_api: bool = True
    #: Whether every request needs a key (`Authorization: Bearer`); the keys are the broker's.
    token_authorization: bool = False
    #: PEM file of the certificate for listeners whose address says https.
    certificate_file: str | None = None
    #: PEM file of its private key.
    private_key_file: str | None = None
    #: PKCS12 file with both, instead of the two. Key material is read at the start alone.
    keystore: str | None = None
    #: TorchServe's default.
    keystore_pass: str = "changeit"
    #: access-control-allow-origin of every response; none is sent where this is empty. Where no keys are
    #: asked for, pages of other origins are refused.
    cors_allowed_origin: str = ""
    #: access-control-allow-methods, likewise.
    cors_allowed_methods: str = ""
    #: access-control-allow-headers, likewise.
    cors_allowed_headers: str = ""
    #: Names by which callers that need no key may ask for this server, beside `localhost`, addresses and the
    #: host's own names; patterns such as `*.svc.cluster.local`, and `*` for any. Any other name is refused:
    #: a page whose name was made to lead here could use the server through the browser that shows it.
    allowed_hosts: tuple[str, ...] = ()
    #: Whether listeners that other hosts can reach take any name: so has it `torchserve`, whose callers are
    #: elsewhere, unless allowed_hosts says which.
    any_host_outside: bool = False
    #: Whether KServe's v2 health and metadata routes are there.
    open_inference_protocol: bool = False
    #: Request header that names a sequence.
    header_key_sequence_id: str = "ts_request_sequence_id"
    #: File of a line per request as TorchServe's access_log.log; None writes none.
    access_log: str | None = None
    #: When that file is moved away, and how many are kept.
    log_limits: LogLimits = LogLimits()
    #: Told by /fleet: who has started this gateway knows it by that from another at the same address.
    server_id: str = ""
    #: Lets the gateway listen where other hosts can reach it, though it asks nobody for a key.
    insecure: bool = False

    @property
    def in_flight_bytes(self) -> int:
        """What in_flight_limit_bytes comes to."""
        return self.in_flight_limit_bytes or self.max_request_size + _IN_FLIGHT_BYTES

    @property
    def unsent_bytes(self) -> int:
        """What unsent_limit_bytes comes to."""
        return self.unsent_limit_bytes or UNSENT_BYTES


class NodeSettings(Settings, frozen=True, kw_only=True):
    """A node's settings."""

    #: Where the broker listens.
    broker_address: str = DEFAULT_BROKER_ADDRESS
    #: Shown in status; the host's name unless given.
    name: Name
    #: `auto` offers every GPU, or the cpu where there is none; else `cpu`, `cuda:0`, ...
    devices: tuple[str, ...] = ("auto",)
    #: Workers at the same time, 4096 at most. TorchServe has no bound; this one stops a typo from eating the
    #: host.
    slots: Annotated[int, msgspec.Meta(ge=1, le=SLOTS_LIMIT)] = 32
    #: Archives by hash and unpacked models; shared by every node of a host, and kept between runs.
    cache_dir: str
    #: Bytes kept in cache_dir: of what no worker of this host uses, the least recently used goes. Room for
    #: a dozen language models, so that going back to an earlier version seldom fetches it again. A tenth
    #: of the disk, or 10 GiB of a large one, is left free as well.
    cache_limit_bytes: Positive = DEFAULT_CACHE_LIMIT_BYTES
    #: Seconds of cpu time that reading an archive may take, beside one for each 2 MiB of it; it may last five
    #: times as long. That is done by a process of its own, which ends then.
    archive_time_limit_s: PositiveSeconds = ARCHIVE_TIME_LIMIT_S
    #: Address space of that process.
    archive_memory_limit_bytes: Positive = ARCHIVE_MEMORY_LIMIT_BYTES
    #: Whether unpacked models stay in cache_dir when their workers have stopped. `torchserve` keeps none,
    #: as TorchServe does.
    keep_models: bool = True
    #: Threads of torch in each worker on a cpu. 0: as OMP_NUM_THREADS or MKL_NUM_THREADS says; without
    #: them the host's cpus are shared evenly among 2 workers or more.
    threads_per_worker: NotNegative = 0
    #: How long workers may finish their batch when the node stops.
    stop_grace_s: PositiveSeconds = 3.0
    #: Regex: variables of the environment with such a name are kept from workers.
    blacklist_env_vars: str = ""
    #: Regex: variables with such a name are there for the installer of an archive's requirements, beside
    #: paths, proxies, certificates, `PIP_*` and what compilers need. Archives can read them.
    install_env_vars: str = ""
    #: How long it may take to install what one archive requires. Builds from source take half an hour.
    install_timeout_s: PositiveSeconds = 3600.0
    #: Variables with credentials for clouds (AWS_*, AZURE_*, GOOGLE_*, HF_TOKEN) that workers get; `*` stands
    #: for all, which is what `torchserve` does as TorchServe, and `--pass-credential` names some.
    credential_env_vars: tuple[str, ...] = ()
    #: Variables that hold the server's own secrets: no worker gets them.
    secret_env_vars: tuple[str, ...] = ()
    #: Whether the host's figures (cpu, memory, disk, GPUs) are measured.
    system_metrics: bool = True
    #: How often; TorchServe's default.
    metric_time_interval_s: PositiveSeconds = 60.0
    #: File that gets what workers print, as TorchServe's model_log.log; None keeps only their last lines.
    model_log: str | None = None
    #: When that file is moved away, and how many are kept.
    log_limits: LogLimits = LogLimits()
    #: Header that names a request's sequence; the gateway's must be the same.
    header_key_sequence_id: str = "ts_request_sequence_id"
    #: Header by which a handler learns that the sequence is new.
    header_key_sequence_start: str = "ts_request_sequence_start"
    #: Response header by which a handler closes sequences.
    header_key_sequence_end: str = "ts_request_sequence_end"


def environment() -> Mapping[str, str]:
    """Read the process's environment; whatever needs it takes it as an argument."""
    return dict(os.environ)


def add_to_environment(variables: Mapping[str, str]) -> None:
    """Set variables of this process's environment, for code that isn't ours and reads them there."""
    os.environ.update(variables)


def is_loopback(host: str) -> bool:
    """Tell whether only this host can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_reachable_from_outside(address: str) -> bool:
    """Tell whether other hosts could reach a listener on this address (ipc and unix are files)."""
    if address.startswith(("ipc:", "unix:")):
        return False
    return not is_loopback(urlsplit(address).hostname or "")


def is_open_to_others(address: str) -> bool:
    """Tell whether other users could reach a broker at this address: all but files of one's own.

    tcp has no owner, not even on loopback, and neither have sockets without a file (ipc://@NAME).
    """
    return not address.startswith("ipc://") or address.startswith("ipc://@")
