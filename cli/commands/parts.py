"""`torchrelay broker`, `gateway` and `worker`: each part alone, for fleets of more than one host."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchrelay.cli.commands import options

if TYPE_CHECKING:  # settings take time to load, and `--help` needs none
    from torchrelay.cli.start.child import Role
    from torchrelay.cli.start.joining import Joining
    from torchrelay.shared.settings import Settings


def broker(
    ctx: typer.Context,
    more_models: options.MoreModels = None,
    address: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDR",
            help="Where to listen, tcp:// or ipc://; repeatable. [default: this user's own socket]",
        ),
    ] = None,
    advertise: options.Advertise = None,
    invitation_file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=FILE",
            help="Keep an invitation for any number of hosts in a file: node=FILE, gateway=FILE; repeatable.",
        ),
    ] = None,
    state_dir: options.StateDir = ".torchrelay",
    model_store: options.ModelStore = None,
    models: options.Models = None,
    ts_config: options.TsConfigFile = None,
    tokens: options.Tokens = None,
    keys: options.Keys = None,
    metrics_mode: options.MetricsModeOption = None,
    enable_model_api: options.EnableModelApi = False,
    enable_workflows: options.EnableWorkflows = False,
    workflow_store: options.WorkflowStore = None,
    memory_limit_mb: options.MemoryLimit = 0,
    grace: options.Grace = options.DEFAULT_GRACE_S,
    insecure: options.Insecure = False,
    allow_private_urls: options.AllowPrivateUrls = False,
    link_targets: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", help="Where links of a model's folder may lead, beside that folder; repeatable."
        ),
    ] = None,
    verbose: options.Verbose = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Run the broker: it knows the models and shares out the work."""
    from torchrelay.cli.start import broker_address, checks, config_sources, part_settings, secrets_file
    from torchrelay.cli.start.folders import require_usable_state
    from torchrelay.cli.start.required_packages import require_packages
    from torchrelay.shared.settings import environment

    require_packages("broker")
    static_keys = secrets_file.static_keys(keys, environment())
    command_line = config_sources.command_line_values(**ctx.params, static_keys=static_keys)
    place = broker_address.beside(address, state_dir) if address else broker_address.own_place(environment())
    address = [*([place.address] if place.address else []), *(address or [])]
    for line in place.warnings:
        typer.echo(line, err=True)
    values = part_settings.merge(command_line, config_sources.read_config(ts_config, environment()))
    checks.raise_faults(part_settings.unused_key_faults(static_keys, values, command_line))
    settings = part_settings.broker_settings(
        values,
        addresses=tuple(address),
        advertised_addresses=broker_address.advertised(address, advertise or ()),
        invitation_files=part_settings.invitation_files(invitation_file or ()),
        state_dir=state_dir,
        insecure=insecure,
        allow_private_urls=allow_private_urls,
        link_targets=tuple(link_targets or ()),
        metrics_log_dir=str(Path(state_dir, "logs").absolute()),
        log_limits=config_sources.log_limits(environment()),
        memory_limit_bytes=memory_limit_mb * options.MEGABYTE,
        leave_grace_s=grace,
        key_file=None if static_keys else str(Path(options.KEY_FILE_NAME).absolute()),
        static_keys=static_keys,
    )
    checks.require_broker_addresses(*settings.addresses)
    checks.raise_faults(part_settings.broker_exposure_faults(settings.addresses, insecure))
    checks.raise_faults(part_settings.invitation_faults(settings))
    checks.require_store(settings.model_store)
    checks.require_store(settings.workflow_store, "--workflow-store")
    for line in require_usable_state(Path(state_dir).absolute()):
        typer.echo(line, err=True)
    _run("broker", settings, verbose, json_logs)


def gateway(
    ctx: typer.Context,
    broker: options.Broker = None,
    inference_address: options.InferenceAddress = None,
    management_address: options.ManagementAddress = None,
    metrics_address: options.MetricsAddress = None,
    processes: options.Processes = 1,
    grpc: options.Grpc = None,
    grpc_inference: options.GrpcInference = None,
    grpc_management: options.GrpcManagement = None,
    enable_model_api: options.EnableModelApi = False,
    enable_workflows: options.EnableWorkflows = False,
    ts_config: options.TsConfigFile = None,
    tokens: options.Tokens = None,
    insecure: options.Insecure = False,
    open_http: options.OpenHttp = False,
    allowed_hosts: options.AllowedHosts = None,
    join: options.Join = None,
    join_file: options.JoinFile = None,
    credentials: options.Credentials = None,
    grace: options.Grace = options.DEFAULT_GRACE_S,
    lead: options.Lead = options.DEFAULT_LEAD_S,
    verbose: options.Verbose = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Run the gateway: it speaks HTTP and hands requests to the broker."""
    from torchrelay.cli.start import broker_address, checks, config_sources, joining, part_settings
    from torchrelay.cli.start.required_packages import require_packages
    from torchrelay.shared.settings import environment

    require_packages("gateway")
    environ = environment()
    checks.require_broker_addresses(dialled=broker)
    entry = joining.Joining.of_command("gateway", join, join_file, credentials, environ)
    way = entry.way(broker, lambda: broker_address.of_this_user(environ), insecure=insecure)
    command_line = config_sources.command_line_values(**ctx.params)
    config = config_sources.read_config(ts_config, environ)
    settings = part_settings.gateway_settings(
        part_settings.merge(command_line, config),
        broker_address=way.address,
        credentials_file=way.credentials_file,
        ends_when_refused=entry.invitation is not None,
        processes=processes,
        insecure=insecure or open_http,
        **part_settings.gateway_grace(grace, lead),
    )
    checks.raise_faults(part_settings.gateway_faults(settings))
    checks.require_grpc(settings)
    checks.require_free_listeners(settings)
    for line in part_settings.plain_http_warnings(settings):
        typer.echo(line, err=True)
    _run("gateway", settings, verbose, json_logs, entry)


def worker(
    broker: options.Broker = None,
    name: Annotated[str | None, typer.Option(help="Shown in `status`. [default: the host's name]")] = None,
    device: options.Devices = None,
    slots: options.Slots = None,
    label: options.Labels = None,
    preload: options.Preload = None,
    cache_dir: options.CacheDir = None,
    cache_limit_gb: options.CacheLimit = options.DEFAULT_CACHE_LIMIT_GB,
    pass_credential: options.PassCredentials = None,
    grace: options.Grace = options.DEFAULT_GRACE_S,
    ts_config: options.TsConfigFile = None,
    join: options.Join = None,
    join_file: options.JoinFile = None,
    credentials: options.Credentials = None,
    insecure: options.PlainBroker = False,
    verbose: options.Verbose = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Run a node: it offers this host's devices and starts workers on them."""
    from torchrelay.cli.start import broker_address, checks, config_sources, joining, part_settings
    from torchrelay.cli.start.folders import cache_of_node
    from torchrelay.cli.start.required_packages import require_packages
    from torchrelay.shared import host
    from torchrelay.shared.settings import environment
    from torchrelay.shared.torchserve.config_keys import ConfigValues

    require_packages("worker")
    checks.require_broker_addresses(dialled=broker)
    command_line = ConfigValues(
        node_labels=config_sources.node_labels(label), preload=config_sources.preloaded(preload)
    )
    here = host.look(environment())
    entry = joining.Joining.of_command("node", join, join_file, credentials, environment(), name)
    way = entry.way(broker, lambda: broker_address.of_this_user(environment()), insecure=insecure)
    with cache_of_node(cache_dir, environment()) as cache:
        for line in cache.warnings:
            typer.echo(line, err=True)
        config = config_sources.read_config(ts_config, environment())
        values = part_settings.merge(command_line, config)
        settings = part_settings.node_settings(
            values,
            broker_address=way.address,
            credentials_file=way.credentials_file,
            ends_when_refused=entry.invitation is not None,
            name=name or here.name,
            devices=part_settings.devices(values, tuple(device or ["auto"]), here),
            slots=slots or part_settings.default_slots(here),
            cache_dir=str(cache.folder),
            cache_limit_bytes=cache_limit_gb * options.GIGABYTE,
            credential_env_vars=tuple(pass_credential or ()),
            secret_env_vars=part_settings.secret_variables(config),
            **part_settings.node_grace(grace),
        )
        _run("worker", settings, verbose, json_logs, entry)


def _run(
    role: "Role", settings: "Settings", verbose: bool, json_logs: bool, entry: "Joining | None" = None
) -> None:
    import msgspec

    from torchrelay.cli.faults import Fault
    from torchrelay.cli.start import child
    from torchrelay.shared.logs import logs
    from torchrelay.shared.member_credentials import REFUSED_STATUS
    from torchrelay.shared.settings import SettingsError

    # A part that runs alone has no other output than its log.
    logs.configure(role, level="DEBUG" if verbose else "INFO", log_format="json" if json_logs else "text")
    try:
        while (code := child.run(role, msgspec.Raw(settings.to_json()))) == REFUSED_STATUS and entry:
            entry.enrol_anew()
    except SettingsError as error:
        raise Fault(str(error)) from error
    raise typer.Exit(code)
