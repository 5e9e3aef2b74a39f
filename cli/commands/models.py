"""`torchrelay models ...`: list, describe and change what is registered."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import FaultReportingGroup

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
    from torchrelay.cli.remote.client import RestClient

    rendering.show(RestClient("management", management).models(), as_json, rendering.model_list)


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
    from torchrelay.cli.remote.client import RestClient

    versions = RestClient("management", management).versions(model, "all" if every else version)
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
    initial_workers: Annotated[int | None, typer.Option("--initial-workers", "--workers", min=0)] = None,
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
    parameters = {
        "url": url,
        "model_name": model_name,
        "handler": handler,
        "runtime": runtime,
        "batch_size": batch_size,
        "max_batch_delay": max_batch_delay,
        "initial_workers": initial_workers,
        "response_timeout": response_timeout,
        "startup_timeout": startup_timeout,
        "synchronous": wait,
    }
    _change(management, "POST", ("models",), parameters, wait=wait, as_json=as_json)


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
    parameters = {"min_worker": minimum, "max_worker": maximum, "synchronous": wait}
    _change(management, "PUT", ("models", model, version), parameters, wait=wait, as_json=as_json)


@app.command()
def unregister(
    model: Name,
    version: options.Version = None,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Remove a model, or one version of it."""
    _change(management, "DELETE", ("models", model, version), as_json=as_json)


@app.command("set-default")
def set_default(
    model: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION")],
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Make a version the one that calls without a version get."""
    _change(management, "PUT", ("models", model, version, "set-default"), as_json=as_json)


def _change(
    management: str,
    method: str,
    path: Sequence[str | None],
    parameters: Mapping[str, object] | None = None,
    *,
    wait: bool = False,
    as_json: bool,
) -> None:
    """Ask for a change and print what the server says; with `wait`, show meanwhile how workers start."""
    from torchrelay.cli.remote import rendering
    from torchrelay.cli.remote.client import TIMEOUT_S, RestClient, decode, path_of
    from torchrelay.shared.api_bodies import StatusBody

    # A model may take minutes to load: the limits of the server end a wait, not those of this command.
    client = RestClient("management", management, timeout_s=None if wait else TIMEOUT_S)

    def change() -> StatusBody:
        return decode(client.call(method, path_of(*path), parameters), StatusBody)

    answer = rendering.while_watching(change, RestClient("management", management)) if wait else change()
    rendering.show(answer, as_json, lambda status: status.status)
