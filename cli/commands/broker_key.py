"""`torchrelay broker-key ...`: the key by which hosts know their broker."""

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import FaultReportingGroup

app = typer.Typer(cls=FaultReportingGroup, help="Rotate the broker's own key.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keep `rotate` a command of its own: typer makes a group's only command the group."""


@app.command()
def rotate(
    management: options.Management = options.DEFAULT_MANAGEMENT, as_json: options.Json = False
) -> None:
    """Have the broker make its next key and tell all members; its next start uses it."""
    from torchrelay.cli.remote import rendering
    from torchrelay.cli.remote.connected import connected

    with connected("management", management) as client:
        answer = client.rotate_broker_key()
    rendering.show(
        answer,
        as_json,
        lambda key: (
            f"The broker's next key is {key.next_key}. Members that are here know it, those that are away"
            " hear of it when they come; restart the broker when all have, and it uses that key."
        ),
    )
