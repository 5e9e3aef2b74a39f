"""`torchrelay status`: the fleet on one screen."""

from typing import Annotated

import typer

from torchrelay.cli.commands import options


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it, until Ctrl-C.")] = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Show models, workers, queues and nodes."""
    from torchrelay.cli.remote import rendering
    from torchrelay.cli.remote.connected import connected

    with connected("management", management) as client:
        if watch and not as_json:
            rendering.keep_showing(lambda: rendering.fleet(client.fleet(), management))
        else:
            rendering.show(client.fleet(), as_json, lambda seen: rendering.fleet(seen, management))
