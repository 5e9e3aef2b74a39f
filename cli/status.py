"""`torchrelay status`: the fleet on one screen."""

from typing import Annotated

import typer

from torchrelay.cli import options


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it, until Ctrl-C.")] = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Show models, workers, queues and nodes."""
    from torchrelay.cli import render
    from torchrelay.cli.client import Client

    client = Client("management", management)
    if watch and not as_json:
        render.keep_showing(lambda: render.fleet(client.fleet(), management))
    else:
        render.show(client.fleet(), as_json, lambda seen: render.fleet(seen, management))
