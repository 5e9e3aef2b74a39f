"""Options that several commands share, each defined once."""

from typing import Annotated

import typer

#: The file with the keys that a server has made, in the folder where it was started; TorchServe's name.
KEY_FILE_NAME = "key_file.json"
#: As in `shared.settings`, which takes too long to load for `--help`.
DEFAULT_INFERENCE = "http://127.0.0.1:8080"
DEFAULT_MANAGEMENT = "http://127.0.0.1:8081"
DEFAULT_METRICS = "http://127.0.0.1:8082"

Join = Annotated[
    str | None,
    typer.Option(
        metavar="INVITATION",
        help="Join by what `nodes invite` or `gateways invite` printed. Else TORCHRELAY_JOIN.",
    ),
]
JoinFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="Join by the invitation in a file; `-` is standard input.")
]
Credentials = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The key by which the broker knows this host. [default: in ~/.local/state/torchrelay]",
    ),
]
PlainBroker = Annotated[
    bool,
    typer.Option("--insecure", help="Speak to a broker on tcp that was started so: without keys, in clear."),
]
Advertise = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDR",
        help="Where other hosts reach the broker, for invitations; repeatable. [default: as it listens]",
    ),
]
ModelStore = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder of archives; without it nothing can be registered.")
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        metavar="M", help="Models to load: `all`, or archives and NAME=ARCHIVE, several after one --models."
    ),
]
MoreModels = Annotated[list[str] | None, typer.Argument(metavar="M", hidden=True)]
TsConfigFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A config.properties; ./config.properties is taken if there is one."),
]
EnableModelApi = Annotated[bool, typer.Option("--enable-model-api", help="Allow register and unregister.")]
EnableWorkflows = Annotated[
    bool, typer.Option("--enable-workflows", help="Allow workflows to be registered.")
]
WorkflowStore = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder of archives of workflows. [default: --model-store]")
]
StateDir = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        envvar="TORCHRELAY_STATE_DIR",
        help="Registry, stored archives and logs; kept between runs.",
    ),
]
InferenceAddress = Annotated[str | None, typer.Option(metavar="URL", help=f"[default: {DEFAULT_INFERENCE}]")]
ManagementAddress = Annotated[
    str | None, typer.Option(metavar="URL", help=f"[default: {DEFAULT_MANAGEMENT}]")
]
MetricsAddress = Annotated[str | None, typer.Option(metavar="URL", help=f"[default: {DEFAULT_METRICS}]")]
Processes = Annotated[int, typer.Option("--gateway-processes", "--processes", min=1, help="HTTP processes.")]
Grpc = Annotated[
    bool | None,
    typer.Option(
        "--grpc/--no-grpc",
        envvar="TORCHRELAY_GRPC",
        help="Whether gRPC is spoken, too. [default: where one of its options or keys is given]",
    ),
]
GrpcInference = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Where gRPC is spoken for inference. [default: 127.0.0.1:7070]"),
]
GrpcManagement = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Where gRPC is spoken for management. [default: 127.0.0.1:7071]"),
]
Slots = Annotated[int | None, typer.Option(min=1, help="Workers that may run at once on this node.")]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", metavar="D", help="`auto`, `cpu`, `cuda:0`, ...; may be given several times."),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="NAME=VALUE",
        envvar="TORCHRELAY_LABELS",
        help="What models may ask of this host (`zone=a`); may be given several times.",
    ),
]
Preload = Annotated[
    list[str] | None,
    typer.Option(
        "--preload",
        metavar="MODULE",
        envvar="TORCHRELAY_PRELOAD",
        help="A module to import once for all workers, or `none`; repeatable. [default: torch]",
    ),
]
CacheDir = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        envvar="TORCHRELAY_CACHE_DIR",
        help="Unpacked archives. [default: ~/.cache/torchrelay, else a temporary folder]",
    ),
]
CacheLimit = Annotated[
    int,
    typer.Option("--cache-limit-gb", metavar="GB", min=1, help="Above it, what no worker uses is dropped."),
]
PassCredentials = Annotated[
    list[str] | None,
    typer.Option(
        "--pass-credential",
        metavar="NAME",
        envvar="TORCHRELAY_PASS_CREDENTIALS",
        help="A variable with credentials for a cloud (AWS_..., HF_TOKEN, ...) that handlers get, or `*`.",
    ),
]
Broker = Annotated[
    str | None,
    typer.Option("--broker", metavar="ADDR", help="The broker's address. [default: this user's own socket]"),
]
Grace = Annotated[
    float,
    typer.Option(
        "--grace",
        metavar="S",
        envvar="TORCHRELAY_GRACE",
        min=0,
        help="Seconds that it takes at most to stop after SIGTERM; what runs ends meanwhile.",
    ),
]
Lead = Annotated[
    float,
    typer.Option(
        "--lead",
        metavar="S",
        envvar="TORCHRELAY_LEAD",
        min=0,
        help="Seconds of --grace in which it goes on as before, while /readyz and /ping fail.",
    ),
]
MemoryLimit = Annotated[
    int,
    typer.Option(
        "--memory-limit-mb",
        metavar="MB",
        envvar="TORCHRELAY_BROKER_MEMORY_LIMIT_MB",
        min=0,
        help="Above it, the connection that holds most is cut. [default: 0, half of the memory]",
    ),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Listen where others can reach it, though nobody checks who calls.")
]
OpenHttp = Annotated[
    bool,
    typer.Option("--open-http", help="Listen for HTTP where others reach it, and ask for no key."),
]
AllowedHosts = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        envvar="TORCHRELAY_ALLOWED_HOSTS",
        help="Names by which callers without keys may ask for this server, beside its own: a,*.b,... or `*`.",
    ),
]
AllowPrivateUrls = Annotated[
    bool, typer.Option("--allow-private-urls", help="Fetch archives from private and loopback addresses too.")
]
Tokens = Annotated[
    bool | None,
    typer.Option(
        "--tokens/--disable-token-auth",
        " /--dt",
        envvar="TORCHRELAY_TOKENS",
        help=f"Whether callers need keys; made keys are written to ./{KEY_FILE_NAME}. [default: no]",
    ),
]
Keys = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Keys that you keep, a line each: API NAME KEY. Switches tokens on."),
]
MetricsModeOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODE",
        help="`prometheus`, `log` (files), or `legacy`, as in TorchServe. [default: prometheus]",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Log to the terminal from INFO on.")]
JsonLogs = Annotated[bool, typer.Option("--json-logs", help="Log lines are JSON objects.")]
Management = Annotated[
    str,
    typer.Option(
        "--management", metavar="URL", envvar="TORCHRELAY_MANAGEMENT", help="The management address."
    ),
]
Inference = Annotated[
    str,
    typer.Option("--inference", metavar="URL", envvar="TORCHRELAY_INFERENCE", help="The inference address."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Version = Annotated[
    str | None, typer.Option("--version", metavar="V", help="One version; the default one if left out.")
]

TorchServeFlag = Annotated[bool, typer.Option("--start", "--foreground", hidden=True, help="Always so.")]

DEFAULT_CACHE_LIMIT_GB = 200
#: A worker's successor has to load its model in that time, a long request to end; container platforms give
#: 30 s unless told otherwise.
DEFAULT_GRACE_S = 25.0
#: As long as balancers that look every second need to look twice.
DEFAULT_LEAD_S = 3.0
GIGABYTE = 1_000_000_000
MEGABYTE = 1_000_000
