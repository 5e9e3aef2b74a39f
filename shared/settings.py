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

from torchrelay.shared.wire.fields import SLOTS_LIMIT, KeyedApi, Labels, MemberRole, Name

Positive = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
PositiveSeconds = Annotated[float, msgspec.Meta(gt=0)]

#: Where a broker is that nobody has named. The commands always name one: the user's own, see `--broker`.
DEFAULT_BROKER_ADDRESS = "ipc://torchrelay/broker.sock"
#: A unix socket's path is at most this long (108 bytes with its closing zero).
SOCKET_PATH_LIMIT_BYTES = 107
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
    """One model version of config.properties' `models={...}`, or of a snapshot; None for a missing value."""

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
    """A key that the operator has given: it doesn't expire, and can't be renewed here."""

    api: KeyedApi
    name: str
    #: Visible ASCII, since it is sent in a header; see `is_guessable_key`.
    key: Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{16,}\Z")]


#: Characters of a key, and different pairs of neighbours among them that are no run such as `34` or `aa`.
KEY_LENGTH_MIN = 16
KEY_PAIRS_MIN = 8


def is_guessable_key(key: str) -> bool:
    """Return whether a key is short, or mostly runs and repetitions, as `password12345678`."""
    repeated = key[: (key + key).find(key, 1)]
    pairs = {pair for pair in pairwise(key) if abs(ord(pair[0]) - ord(pair[1])) > 1}
    return len(repeated) < KEY_LENGTH_MIN or len(pairs) < KEY_PAIRS_MIN


class InvitationFile(msgspec.Struct, frozen=True):
    """A file in which the broker keeps an invitation for parts that are started together with it."""

    role: MemberRole
    path: str


class LogLimits(msgspec.Struct, frozen=True):
    """At how many bytes a log file is rotated, and how many older files are kept; TorchServe's defaults.

    With 0 bytes it is never rotated, as where logrotate does that.
    """

    file_bytes: NotNegative = 100 << 20
    files: NotNegative = 5


DEFAULT_LOG_LIMITS = LogLimits()


class BrokerSettings(Settings, frozen=True, kw_only=True):
    """The broker's settings."""

    #: Addresses to bind, tcp:// or ipc://. Several may be given: ipc for this user, tcp for others.
    addresses: tuple[str, ...] = (DEFAULT_BROKER_ADDRESS,)
    #: Where other hosts reach the broker, for invitations; by default those of its tcp addresses that name a
    #: host.
    advertised_addresses: tuple[str, ...] = ()
    #: Files that hold an invitation each, for any number of gateways or nodes, which are forgotten when they
    #: have been silent for ten minutes. Whoever can read such a file can join.
    invitation_files: tuple[InvitationFile, ...] = ()
    #: Holds the registry (SQLite), the archives by content, and the broker's own keys.
    state_dir: str
    #: Folder of local archives, and of those fetched from urls; without it no model can be registered.
    model_store: str | None = None
    #: Folder of local archives of workflows, and of those fetched from urls; None takes the model store.
    workflow_store: str | None = None
    #: Whether models that are folders of the model store are used in their place, as in TorchServe; all nodes
    #: must be on this host then. Else a folder is packed when it is registered, and sent to nodes.
    folders_in_place: bool = False
    #: Whether archives whose workers start at once are unpacked from the model store, and not copied to
    #: state_dir: where all nodes are on this host, and the state is removed when the broker stops.
    archives_in_place: bool = False
    #: Folders to which links in a model's folder may lead when it is packed, beside that folder itself.
    link_targets: tuple[str, ...] = ()
    #: Folders of this host that can't be registered as models: the cache, logs.
    private_folders: tuple[str, ...] = ()
    #: Models that are registered at start. `all` stands for every archive of the model store.
    load_models: tuple[LoadAtStart, ...] = ()
    #: Settings of model versions, which count when one of them is registered.
    models: tuple[StartupModel, ...] = ()
    #: Models of a TorchServe snapshot, registered at start instead of load_models; None without one.
    snapshot: tuple[StartupModel, ...] | None = None
    #: Folder into which a snapshot is written at every change, as TorchServe does; None writes none, since
    #: the registry has everything.
    snapshot_dir: str | None = None
    #: The configuration that a snapshot repeats, by TorchServe's keys.
    snapshot_config: tuple[tuple[str, str], ...] = ()
    #: How often broker and peers send a beat. 0.5 s finds a dead peer within seconds, at no cost that shows.
    beat_interval_s: PositiveSeconds = 0.5
    #: Silence after which a peer counts as lost. Six beats, so that a lost packet or a pause doesn't do it.
    peer_timeout_s: PositiveSeconds = 3.0
    #: TorchServe's job_queue_size and its default: jobs waiting per model version.
    job_queue_size: Positive = 100
    #: Work that a worker is given ahead: as many batches, of up to 32 jobs, as it should run in so long, one
    #: at least where batches take less than half a second. So it need not wait for the next message; of two
    #: workers neither has much to do while the other has nothing.
    ahead_s: Annotated[float, msgspec.Meta(ge=0)] = 0.002
    #: Whether gateways and workers of one host and user pass large parts of requests and answers by memory
    #: that both have, where the system lets them. Each of those workers can read what a gateway lends.
    shared_memory: bool = True
    #: Bytes of the jobs that wait in all queues. Where no job waits, one of any size is accepted. The
    #: commands raise it with max_request_size, to what a gateway lets in.
    queue_limit_bytes: Positive = QUEUE_LIMIT_BYTES
    #: Memory above which the broker closes the connection that holds most of it. 0 takes half of the host's
    #: or cgroup's, or more if queue_limit_bytes and 1 GiB beside it need it, up to nine tenths.
    memory_limit_bytes: NotNegative = 0
    #: Tries per job, so that a job that ends workers can't end one after the other. Where it is above 1, one
    #: that may not be to blame, or not have begun, has one more.
    attempt_limit: Positive = 2
    #: How long requests are refused whose content has ended as many workers as a job has tries, two at
    #: least; 0 refuses none. Long enough to look into it, short enough where the content is not the cause.
    quarantine_s: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    #: How long a worker may take to answer a batch; TorchServe's default, as are the next two.
    default_response_timeout_s: Positive = 120
    #: How long a worker may take to load its model.
    default_startup_timeout_s: Positive = 120
    #: Workers of a model whose registration names no number.
    default_workers_per_model: NotNegative = 0
    #: The most workers that one version of a model may be scaled to; TorchServe has no bound.
    workers_limit: Positive = 1000
    #: Workers of a model loaded at start, where default_workers_per_model is 0. TorchServe takes the
    #: number of GPUs, or of cpus; `torchrelay serve` sets this so.
    startup_workers_per_model: Positive = 1
    #: TorchServe's maxRetryTimeoutInSec: how long a crashing worker is started again and again.
    restart_window_s: Positive = 300
    #: How long a restarted broker waits for its earlier nodes before it starts workers on others.
    settle_s: PositiveSeconds = 5.0
    #: Whether models may be registered and unregistered; else that is refused (405) to every gateway.
    enable_model_api: bool = False
    #: Whether workflows may be registered; else that is refused (400), as in the last TorchServe.
    enable_workflow_api: bool = False
    #: How long a broker that is told to stop waits for what workers run; it hands out nothing more meanwhile.
    leave_grace_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    #: How long an unregistration waits for the workers to end; TorchServe's default.
    unregister_timeout_s: NotNegative = 120
    #: How long a worker may go on with a batch when it is told to stop.
    stop_grace_s: PositiveSeconds = 5.0
    #: Regexes for the whole url without user and fragment, case-insensitive; TorchServe's default. The part
    #: of a regex between `://` and the next slash must match host and port. See also allow_private_urls.
    allowed_urls: tuple[str, ...] = ("file://.*|http(s)?://.*",)
    #: Whether urls may lead to private, loopback or link-local addresses; else only those whose host a
    #: pattern of allowed_urls spells out: callers could reach the server's own network through it.
    allow_private_urls: bool = False
    #: The largest archive that is fetched from a url.
    download_limit_bytes: Positive = 64 << 30
    #: Silence of an archive's server after which a download fails.
    download_timeout_s: PositiveSeconds = 30.0
    #: The rate at which an archive's server must send, over download_grace_s; a slower download fails. A slow
    #: line has ten times as much.
    download_min_bytes_per_s: Positive = 64 << 10
    #: How long a download may be slower than that, and how long until its first byte, redirects included.
    #: In all it takes this long and its size divided by that rate at most.
    download_grace_s: PositiveSeconds = 60.0
    #: Seconds of cpu time that reading an archive may take, beside one for each 2 MiB of it; it may last five
    #: times as long. A process of its own reads, and is ended then.
    archive_time_limit_s: PositiveSeconds = ARCHIVE_TIME_LIMIT_S
    #: Address space of that process.
    archive_memory_limit_bytes: Positive = ARCHIVE_MEMORY_LIMIT_BYTES
    #: Handler of archives whose manifest names none.
    default_service_handler: str = ""
    #: Envelope around the requests of all models: `body`, `json`, `kserve`, `kservev2`, or a module.
    service_envelope: str = ""
    #: Whether handlers get JSON and text bodies decoded.
    decode_input_request: bool = True
    #: Passed to handlers, which may lift Pillow's limit where it is false.
    limit_max_image_pixels: bool = True
    #: The largest answer of a worker; TorchServe's default.
    max_response_size: Annotated[int, msgspec.Meta(ge=1, le=BODY_LIMIT_BYTES)] = 6_553_500
    #: Whether the packages that an archive requires are installed for its workers. Off as in TorchServe:
    #: it runs code from a package index.
    install_py_dep_per_model: bool = False
    #: Where TorchServe's metrics go: `prometheus` to the metrics API, `log` to files in metrics_log_dir,
    #: `legacy` its three counters to the API and the rest to files.
    metrics_mode: Literal["prometheus", "log", "legacy"] = "prometheus"
    #: Folder of ts_metrics.log and model_metrics.log; without it they aren't written.
    metrics_log_dir: str | None = None
    #: When those files are rotated, and how many of each are kept.
    log_limits: LogLimits = LogLimits()
    #: TorchServe's metrics.yaml; the built-in one lists the same metrics as TorchServe's.
    metrics_config: str | None = None
    #: Whether metrics of handlers are accepted that metrics_config doesn't list.
    model_metrics_auto_detect: bool = False
    #: Whether the metrics API has torchrelay_* metrics beside TorchServe's, in every metrics_mode.
    own_metrics: bool = True
    #: Whether keys for the APIs are made; see also GatewaySettings.token_authorization.
    token_authorization: bool = False
    #: How long a key that the broker made is valid.
    token_expiration_min: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    #: How long the previous key stays valid after a renewal; 0 as in TorchServe.
    token_overlap_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    #: File into which the broker writes its keys (mode 0600), as TorchServe's key_file.json; None: no file.
    key_file: str | None = None
    #: Keys from the environment or a secrets file.
    static_keys: tuple[StaticKey, ...] = ()
    #: Lets the broker bind to an address that other users or hosts can reach, without encryption or keys.
    insecure: bool = False

    @property
    def asks_for_curve_keys(self) -> bool:
        """Whether peers on tcp prove who they are by a key, and all that is said is encrypted."""
        return not self.insecure and any(address.startswith("tcp://") for address in self.addresses)

    @property
    def join_addresses(self) -> tuple[str, ...]:
        """Addresses for invitations; none where no other host can join by one."""
        if not self.asks_for_curve_keys:
            return ()
        bound = (address for address in self.addresses if address.startswith("tcp://"))
        return self.advertised_addresses or tuple(one for one in bound if not is_wildcard(one))


class GatewaySettings(Settings, frozen=True, kw_only=True):
    """The gateway's settings. Addresses are TorchServe's: http://HOST[:PORT]."""

    #: Where the broker listens; with credentials_file the addresses in it count instead.
    broker_address: str = DEFAULT_BROKER_ADDRESS
    #: File with this host's key, the broker's and its addresses, made when the host joins. None where the
    #: broker asks for no key: on a unix socket, and on tcp with `--insecure`.
    credentials_file: str | None = None
    #: Whether it ends, with exit status 4, when the broker doesn't know its key any more, as where whoever
    #: started it has an invitation to join anew by; else it tries again and again.
    ends_when_refused: bool = False
    #: Listens for predictions, explanations and `/ping`.
    inference_address: str = "http://127.0.0.1:8080"
    #: Listens for registering, scaling, describing; may be the same as inference_address.
    management_address: str = "http://127.0.0.1:8081"
    #: Listens for Prometheus.
    metrics_address: str = "http://127.0.0.1:8082"
    #: One process answers several thousand requests/s; more pay only on hosts with free cores.
    processes: Positive = 1
    #: The largest body, inclusive; TorchServe's default.
    max_request_size: Annotated[int, msgspec.Meta(ge=1, le=BODY_LIMIT_BYTES)] = 6_553_500
    #: Jobs that wait for an answer, per process. Above it requests are answered 503 at once.
    in_flight_limit_jobs: Positive = 2048
    #: Bytes of the bodies of those jobs, and of bodies that are still coming, per process; 0 takes 256 MiB
    #: more than max_request_size.
    in_flight_limit_bytes: NotNegative = 0
    #: Open connections, per process. For one more, one is closed that has sent no request yet or is slow,
    #: else one that is idle; never one whose request is being answered.
    connection_limit: Positive = 4096
    #: How long the head of a request may take to come.
    head_timeout_s: PositiveSeconds = 30.0
    #: Bytes per second at which clients must send bodies and read answers, on average; a tenth of what a
    #: modem does.
    client_least_rate: Positive = 500
    #: How long a client may stop, or be slower than that, before its connection is closed.
    client_stall_s: PositiveSeconds = 60.0
    #: Bytes of answers that clients have not read yet, and of requests that wait behind those, per process.
    #: Above it the connections of the slowest clients are closed. 0 takes 128 MiB; the commands raise it to
    #: four of the largest answers.
    unsent_limit_bytes: NotNegative = 0
    #: How long requests wait for a broker that is away before they are answered 503.
    broker_outage_limit_s: PositiveSeconds = 30.0
    #: How long open requests may go on after SIGTERM, once leave_lead_s is over.
    graceful_timeout_s: Positive = 4
    #: How long it goes on after SIGTERM as before, and says meanwhile that it leaves: /readyz and /ping fail,
    #: answers have `connection: close`. As long as load balancers take to notice; 0 stops at once.
    leave_lead_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    #: How long the event loop of a gateway process may stand still before it is killed, and replaced.
    stuck_after_s: Positive = 4
    #: Whether models may be registered and unregistered; else that is refused (405). The broker has its own.
    enable_model_api: bool = False
    #: Whether workflows may be registered; else that is refused (400). The broker has its own.
    enable_workflow_api: bool = False
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
    #: Names of this server that requests without keys may have as their host, beside `localhost`, addresses
    #: and the host's own names; patterns such as `*.svc.cluster.local`, and `*` for any. Other names are
    #: refused: a web page whose name was made to lead here could use the server through a browser.
    allowed_hosts: tuple[str, ...] = ()
    #: Whether listeners that other hosts can reach accept any name, as `torchserve` does for its callers on
    #: other hosts unless allowed_hosts is set.
    any_host_outside: bool = False
    #: Whether the gateway speaks KServe's open inference protocol, by gRPC too where that is spoken.
    open_inference_protocol: bool = False
    #: Whether gRPC is spoken, too, by a process of its own; needs the packages of the extra `grpc`.
    enable_grpc: bool = False
    #: The host or IP where InferenceAPIsService is listened for, without a scheme.
    grpc_inference_address: str = "127.0.0.1"
    #: Its port.
    grpc_inference_port: Port = 7070
    #: The same of ManagementAPIsService.
    grpc_management_address: str = "127.0.0.1"
    #: Its port.
    grpc_management_port: Port = 7071
    #: Processes that speak gRPC; the kernel shares connections out among them, not calls.
    grpc_processes: Positive = 1
    #: The server behind the port for inference: `pygrpc-native`, of the extra `grpc-native`, takes a fifth of
    #: the time for a call, has neither TLS nor ages of connections, and where clients fill its memory its
    #: process is replaced, with the calls that it has.
    grpc_server: Literal["grpcio", "pygrpc-native"] = "grpcio"
    #: Whether gRPC is spoken over TLS, with the certificate for https.
    enable_grpc_ssl: bool = False
    #: How old a connection of InferenceAPIsService may get before its client is asked to make another one, so
    #: that load balancers share out anew; 0 is no bound.
    grpc_inference_max_connection_age_ms: NotNegative = 0
    #: How long what runs on it may go on then; 0 is no bound.
    grpc_inference_max_connection_age_grace_ms: NotNegative = 0
    #: The same of ManagementAPIsService.
    grpc_management_max_connection_age_ms: NotNegative = 0
    #: And its grace.
    grpc_management_max_connection_age_grace_ms: NotNegative = 0
    #: Request header that names a sequence.
    header_key_sequence_id: str = "ts_request_sequence_id"
    #: File with a line for each request, as TorchServe's access_log.log; None writes none.
    access_log: str | None = None
    #: When that file is rotated, and how many are kept.
    log_limits: LogLimits = LogLimits()
    #: Part of the answer of /fleet, by which the command that started this gateway recognises it.
    server_id: str = ""
    #: Lets the gateway listen where other hosts can reach it, although requests need no key.
    insecure: bool = False

    @property
    def in_flight_bytes(self) -> int:
        """The value of in_flight_limit_bytes, or what 0 stands for."""
        return self.in_flight_limit_bytes or self.max_request_size + _IN_FLIGHT_BYTES

    @property
    def unsent_bytes(self) -> int:
        """The value of unsent_limit_bytes, or what 0 stands for."""
        return self.unsent_limit_bytes or UNSENT_BYTES


class NodeSettings(Settings, frozen=True, kw_only=True):
    """A node's settings."""

    #: Where the broker listens; with credentials_file the addresses in it count instead.
    broker_address: str = DEFAULT_BROKER_ADDRESS
    #: File with this host's key, the broker's and its addresses, made when the host joins. None where the
    #: broker asks for no key: on a unix socket, and on tcp with `--insecure`.
    credentials_file: str | None = None
    #: Whether it ends, with exit status 4, when the broker doesn't know its key any more, as where whoever
    #: started it has an invitation to join anew by; else it tries again and again.
    ends_when_refused: bool = False
    #: Shown by `status`; the host's name by default.
    name: Name
    #: `auto` offers every GPU, or the cpu where there is none; else `cpu`, `cuda:0`, ...
    devices: tuple[str, ...] = ("auto",)
    #: What models may ask of the host they run on, such as `zone=a`: `placement` in model-config.yaml.
    labels: Labels = ()
    #: Workers at the same time, 4096 at most. TorchServe has no bound; this one keeps a typo from using up
    #: the host.
    slots: Annotated[int, msgspec.Meta(ge=1, le=SLOTS_LIMIT)] = 32
    #: Folder of archives by hash and of unpacked models; all nodes of a host share it, and it is kept.
    cache_dir: str
    #: Bytes of cache_dir above which the least recently used entries are removed that no worker of this host
    #: uses. Room for a dozen language models, so that an earlier version is seldom fetched again. A tenth
    #: of the disk, or 10 GiB of a large one, is left free as well.
    cache_limit_bytes: Positive = DEFAULT_CACHE_LIMIT_BYTES
    #: Seconds of cpu time that reading an archive may take, beside one for each 2 MiB of it; it may last five
    #: times as long. A process of its own reads, and is ended then.
    archive_time_limit_s: PositiveSeconds = ARCHIVE_TIME_LIMIT_S
    #: Address space of that process.
    archive_memory_limit_bytes: Positive = ARCHIVE_MEMORY_LIMIT_BYTES
    #: Whether unpacked models stay in cache_dir when their workers have stopped. `torchserve` keeps none,
    #: as TorchServe does.
    keep_models: bool = True
    #: Threads of torch in each worker on a cpu. 0: as OMP_NUM_THREADS or MKL_NUM_THREADS says; without
    #: them the host's cpus are shared evenly among 2 workers or more.
    threads_per_worker: NotNegative = 0
    #: Modules that are imported once, before there are workers, which then start in milliseconds and share
    #: them. None may start a thread or use a GPU when it is imported. What else its handler needs a worker
    #: imports by itself.
    preload: tuple[str, ...] = ("torch",)
    #: How long workers may finish their batch when the node stops.
    stop_grace_s: PositiveSeconds = 3.0
    #: How long a node that is told to stop waits before that for its workers to be replaced on other nodes;
    #: for what has no other place it doesn't wait.
    leave_grace_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    #: Regex: variables of the environment with such a name are kept from workers.
    blacklist_env_vars: str = ""
    #: Regex: variables with such a name are passed to the installer of an archive's requirements, beside
    #: paths, proxies, certificates, `PIP_*` and those of compilers. Archives can read them.
    install_env_vars: str = ""
    #: How long installing the requirements of one archive may take. Builds from source take half an hour.
    install_timeout_s: PositiveSeconds = 3600.0
    #: Variables with credentials for clouds (AWS_*, AZURE_*, GOOGLE_*, HF_TOKEN) that workers get; `*` stands
    #: for all, as in TorchServe and `torchserve`; `--pass-credential` names some.
    credential_env_vars: tuple[str, ...] = ()
    #: Variables with the server's own secrets, which no worker gets.
    secret_env_vars: tuple[str, ...] = ()
    #: Whether the host is measured: cpu, memory, disk, GPUs.
    system_metrics: bool = True
    #: How often; TorchServe's default.
    metric_time_interval_s: PositiveSeconds = 60.0
    #: File that gets what workers print, as TorchServe's model_log.log; None keeps only their last lines.
    model_log: str | None = None
    #: When that file is rotated, and how many are kept.
    log_limits: LogLimits = LogLimits()
    #: Header that names a request's sequence; the gateway's must be the same.
    header_key_sequence_id: str = "ts_request_sequence_id"
    #: Header by which a handler learns that the sequence is new.
    header_key_sequence_start: str = "ts_request_sequence_start"
    #: Response header by which a handler closes sequences.
    header_key_sequence_end: str = "ts_request_sequence_end"


def environment() -> Mapping[str, str]:
    """Return the process's environment; functions that need it take it as an argument."""
    return dict(os.environ)


def take_from_environment(variable: str) -> None:
    """Keep a variable of this process's environment from all that it starts."""
    os.environ.pop(variable, None)


def add_to_environment(variables: Mapping[str, str]) -> None:
    """Set variables of this process's environment, for code that isn't ours and reads them there."""
    os.environ.update(variables)


def is_loopback(host: str) -> bool:
    """Return whether only this host can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_reachable_from_outside(address: str) -> bool:
    """Return whether other hosts can reach a listener on this address (ipc and unix are files)."""
    if address.startswith(("ipc:", "unix:")):
        return False
    return not is_loopback(urlsplit(address).hostname or "")


def is_wildcard(address: str) -> bool:
    """Return whether an address to bind stands for all of the host's."""
    return address.removeprefix("tcp://").rpartition(":")[0] in ("*", "0.0.0.0", "[::]")


def is_open_to_others(address: str) -> bool:
    """Return whether other users can reach a broker at this address: any that is no file.

    tcp has no owner, not even on loopback, nor has a socket without a file (ipc://@NAME).
    """
    return not address.startswith("ipc://") or address.startswith("ipc://@")
