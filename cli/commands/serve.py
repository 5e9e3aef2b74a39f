"""`torchrelay serve`: the whole server on one machine, in the foreground of one terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchrelay.cli.commands import options

if TYPE_CHECKING:  # settings take time to load, and `--help` needs none
    from torchrelay.cli.start.child import Role
    from torchrelay.cli.start.fork_server_start import ForkServerStart
    from torchrelay.cli.start.part_settings import Plan


def serve(
    ctx: typer.Context,
    more_models: options.MoreModels = None,
    model_store: options.ModelStore = None,
    models: options.Models = None,
    ts_config: options.TsConfigFile = None,
    enable_model_api: options.EnableModelApi = False,
    enable_workflows: options.EnableWorkflows = False,
    workflow_store: options.WorkflowStore = None,
    tokens: options.Tokens = None,
    keys: options.Keys = None,
    ncs: Annotated[
        bool,
        typer.Option(
            "--ncs", "--no-config-snapshots", help="Keep nothing: a state folder that goes at exit."
        ),
    ] = False,
    gateway_processes: options.Processes = 1,
    grpc: options.Grpc = None,
    grpc_inference: options.GrpcInference = None,
    grpc_management: options.GrpcManagement = None,
    state_dir: options.StateDir = ".torchrelay",
    inference_address: options.InferenceAddress = None,
    management_address: options.ManagementAddress = None,
    metrics_address: options.MetricsAddress = None,
    metrics_mode: options.MetricsModeOption = None,
    broker: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Let nodes of other hosts join here, tcp://HOST:PORT.")
    ] = None,
    advertise: options.Advertise = None,
    insecure: options.Insecure = False,
    open_http: options.OpenHttp = False,
    allowed_hosts: options.AllowedHosts = None,
    allow_private_urls: options.AllowPrivateUrls = False,
    slots: options.Slots = None,
    device: options.Devices = None,
    label: options.Labels = None,
    preload: options.Preload = None,
    cache_dir: options.CacheDir = None,
    cache_limit_gb: options.CacheLimit = options.DEFAULT_CACHE_LIMIT_GB,
    pass_credential: options.PassCredentials = None,
    grace: Annotated[
        float,
        typer.Option(
            metavar="S",
            envvar="TORCHRELAY_GRACE",
            min=0,
            help="Seconds that open requests have to end once it is told to stop; all else takes 3 s more.",
        ),
    ] = 2.0,
    verbose: options.Verbose = False,
    json_logs: options.JsonLogs = False,
    torchserve_flag: options.TorchServeFlag = False,
) -> None:
    """Serve models from this machine: HTTP, broker and workers in one go."""
    from torchrelay.cli.start import early_stops

    early_stops.heed()
    from torchrelay.cli.faults import Fault
    from torchrelay.cli.start import checks, config_sources, fork_server_start, part_settings, secrets_file
    from torchrelay.cli.start.broker_address import advertised
    from torchrelay.cli.start.folders import folders
    from torchrelay.shared.settings import environment

    environ = environment()
    static_keys = secrets_file.static_keys(keys, environ)
    command_line = config_sources.command_line_values(**ctx.params, static_keys=static_keys)
    checks.require_broker_addresses(*([broker] if broker else ()))
    config = config_sources.read_config(ts_config, environ)
    with folders(None if ncs else state_dir, cache_dir, environ) as made:
        own = part_settings.Options(
            state_dir=str(made.state),
            is_state_temporary=ncs,
            cache_dir=str(made.cache),
            cache_limit_bytes=cache_limit_gb * options.GIGABYTE,
            socket_dir=made.sockets,
            broker_address=broker,
            advertised_addresses=advertised([broker] if broker else [], advertise or ()),
            gateway_processes=gateway_processes,
            slots=slots,
            devices=tuple(device or ["auto"]),
            credential_env_vars=tuple(pass_credential or ()),
            insecure=insecure,
            open_http=open_http,
            allow_private_urls=allow_private_urls,
            key_file=None if static_keys else str(Path(options.KEY_FILE_NAME).absolute()),
            static_keys=static_keys,
            metrics_log_dir=str(made.state / "logs"),
            grace_s=grace,
            log_limits=config_sources.log_limits(environ),
        )
        plan = checks.plan(command_line, config, own)
        if misses := checks.misspelt_models(plan.broker):
            raise Fault("\n".join(misses))
        starting = fork_server_start.with_environment_of_workers(plan.node)
        for line in [
            *made.warnings,
            *config_sources.ignored_keys(config),
            *part_settings.plain_http_warnings(plan.gateway),
        ]:
            typer.echo(line, err=True)
        typer.echo(f"Starting broker, gateway and workers; all they log is in {made.state / 'logs'}")
        _run(plan, starting, made.state / "logs", verbose, json_logs)


def _run(plan: "Plan", starting: "ForkServerStart", log_dir: Path, verbose: bool, json_logs: bool) -> None:
    from torchrelay.cli.start import console, foreground
    from torchrelay.cli.start.child import LogTarget
    from torchrelay.cli.start.progress import Terminal

    def log(role: "Role") -> LogTarget:  # into files, since the terminal shows what becomes of models
        return LogTarget(
            level="INFO" if verbose else "ERROR",
            log_format="json" if json_logs else "text",
            file=str(log_dir / f"{role}.log"),
            limits=plan.broker.log_limits,
        )

    foreground.run(plan, log, Terminal(plan, console.say), starting)
