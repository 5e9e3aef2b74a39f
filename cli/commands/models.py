"""`torchrelay models ...`: list, describe and change what is registered."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import FaultReportingGroup

if TYPE_CHECKING:  # they take time to load, and `--help` needs none
    from torchrelay.client.sync_client import Client
    from torchrelay.shared.api_bodies import StatusBody

app = typer.Typer(
    cls=FaultReportingGroup, help="List, register, scale and remove models.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="MODEL")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Return when the workers are there, or say why they are not.")
]


@app.command("list")
def list_models(
    management: options.Management = options.DEFAULT_MANAGEMENT, as_json: options.Json = False
) -> None:
    """List the registered models."""
    from torchrelay.cli.remote import rendering
    from torchrelay.cli.remote.connected import connected

    with connected("management", management) as client:
        listed = list(client.models())
    rendering.show(listed, as_json, rendering.model_list)


@app.command()
def describe(
    model: Name,
    version: options.Version = None,
    every: Annotated[bool, typer.Option("--all", help="Every version.")] = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Show a model's settings and workers."""
    from torchrelay.cli.remote import rendering
    from torchrelay.cli.remote.connected import connected

    with connected("management", management) as client:
        versions = client.describe(model, "all" if every else version)
    rendering.show(versions, as_json, rendering.description)


@app.command()
def register(
    url: Annotated[
        str, typer.Argument(metavar="ARCHIVE", help="A file of the server's model store, or a url.")
    ],
    model_name: Annotated[str | None, typer.Option(help="Instead of the archive's own name.")] = None,
    handler: Annotated[str | None, typer.Option(help="Instead of the archive's own handler.")] = None,
    runtime: Annotated[str | None, typer.Option(help="Instead of the archive's own runtime.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Requests that a worker gets at once.")] = None,
    max_batch_delay: Annotated[
        int | None, typer.Option(help="Milliseconds that a batch may wait to fill.")
    ] = None,
    initial_workers: Annotated[
        int | None,
        typer.Option(
            "--initial-workers",
            "--workers",
            min=0,
            help="Workers that it has at first. [default: the server's default_workers_per_model, or 0]",
        ),
    ] = None,
    response_timeout: Annotated[
        int | None, typer.Option(help="Seconds that a worker may take to answer.")
    ] = None,
    startup_timeout: Annotated[
        int | None, typer.Option(help="Seconds that a worker may take to load.")
    ] = None,
    wait: Wait = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Register an archive.

    A .mar is code, and runs with the rights of its worker: register only what you would run.
    """
    from torchrelay.cli.remote import connected

    def change(client: "Client") -> "StatusBody":
        return client.register(
            url,
            model_name=model_name,
            handler=handler,
            runtime=runtime,
            batch_size=batch_size,
            max_batch_delay=max_batch_delay,
            initial_workers=initial_workers,
            response_timeout=response_timeout,
            startup_timeout=startup_timeout,
            wait=wait,
        )

    _change(management, change, wait=wait, as_json=as_json, advice=connected.REGISTRATION_ADVICE)


@app.command()
def scale(
    model: Name,
    minimum: Annotated[int, typer.Option("--min", min=0, help="Workers to keep.")],
    maximum: Annotated[int | None, typer.Option("--max", min=0, help="[default: as --min]")] = None,
    version: options.Version = None,
    wait: Wait = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Set how many workers a model has."""
    _change(
        management,
        lambda client: client.scale(model, minimum, maximum, version=version, wait=wait),
        wait=wait,
        as_json=as_json,
    )


@app.command()
def unregister(
    model: Name,
    version: options.Version = None,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Remove a model, or one version of it."""
    _change(management, lambda client: client.unregister(model, version), as_json=as_json)


@app.command("set-default")
def set_default(
    model: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION")],
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Make a version the one that calls without a version get."""
    _change(management, lambda client: client.set_default(model, version), as_json=as_json)


def _change(
    management: str,
    change: "Callable[[Client], StatusBody]",
    *,
    wait: bool = False,
    as_json: bool,
    advice: "Mapping[str, str] | None" = None,
) -> None:
    """Ask for a change and print what the server says; with `wait`, show meanwhile how workers start."""
    from torchrelay.cli.remote import connected, rendering

    with connected.connected("management", management, advice=advice or connected.ADVICE) as client:
        answer = rendering.while_watching(lambda: change(client), client) if wait else change(client)
    rendering.show(answer, as_json, lambda status: status.status)
