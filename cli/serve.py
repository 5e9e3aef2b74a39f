"""`torchrelay serve`: the whole server on one machine, in the foreground of one terminal."""

from typing import Annotated

import typer

from cli import options


def serve(
    more_models: options.MoreModels = None,
    model_store: options.ModelStore = None,
    models: options.Models = None,
    ts_config: options.TsConfigFile = None,
    enable_model_api: options.EnableModelApi = False,
    ncs: Annotated[
        bool,
        typer.Option(
            "--ncs", "--no-config-snapshots", help="Keep nothing: a state folder that goes at exit."
        ),
    ] = False,
    gateway_processes: options.Processes = 1,
    state_dir: options.StateDir = ".torchrelay",
    inference_address: options.InferenceAddress = None,
    management_address: options.ManagementAddress = None,
    metrics_address: options.MetricsAddress = None,
    broker: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Let nodes of other hosts join here, tcp://HOST:PORT.")
    ] = None,
    insecure: options.Insecure = False,
    allow_private_urls: options.AllowPrivateUrls = False,
    slots: options.Slots = None,
    device: options.Devices = None,
    cache_dir: options.CacheDir = None,
    verbose: options.Verbose = False,
    json_logs: options.JsonLogs = False,
    torchserve_flag: options.TorchServeFlag = False,
) -> None:
    """Serve models from this machine: HTTP, broker and workers in one go."""
    from cli import compose, foreground, prepare
    from shared.settings import environment

    command_line = prepare.said(
        model_store=model_store,
        models=models,
        more_models=more_models,
        enable_model_api=enable_model_api,
        inference_address=inference_address,
        management_address=management_address,
        metrics_address=metrics_address,
    )
    if broker:
        prepare.require_broker_addresses(broker)
    environ = environment()
    config = prepare.config(ts_config, environ)
    with prepare.folders(state_dir, is_temporary=ncs) as folders:
        own = compose.Options(
            state_dir=str(folders.state),
            cache_dir=prepare.cache_dir(cache_dir, environ),
            socket_dir=folders.sockets,
            broker_address=broker,
            gateway_processes=gateway_processes,
            slots=slots,
            devices=tuple(device or ["auto"]),
            insecure=insecure,
            allow_private_urls=allow_private_urls,
        )
        plan = prepare.plan(command_line, config, own)
        if config.without_effect:
            typer.echo(
                f"These settings have no effect here yet: {', '.join(config.without_effect)}", err=True
            )
        foreground.run(
            plan, folders.state / "logs", is_verbose=verbose, log_format="json" if json_logs else "text"
        )
