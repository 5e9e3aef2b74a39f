"""`torchrelay ping`: whether a broker answers."""

from typing import Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import Fault


def ping(
    broker: options.Broker = None,
    timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How long to wait.")] = 3.0,
) -> None:
    """Ask a broker whether it is there; exit with 1 if it isn't."""
    from torchrelay.cli.start import broker_address, broker_dialogue, checks
    from torchrelay.shared.settings import environment
    from torchrelay.shared.wire import presence

    hint = "" if broker else "; one of another user or host is named by --broker"
    broker = broker or broker_address.of_this_user(environment())
    checks.require_broker_addresses(dialled=broker)
    try:
        _, epoch = broker_dialogue.ask(broker, presence.PROBE, timeout_s=timeout)
    except broker_dialogue.OtherBroker:
        # Not more than that it is one: who has no key learns neither its version nor its epoch.
        typer.echo(f"A broker that asks for keys listens at {broker}.")
    except broker_dialogue.NoAnswer as error:
        raise Fault(
            f"no broker answers at {broker}: is it running, and can this host reach it?{hint}"
        ) from error
    else:
        typer.echo(f"The broker at {broker} lives (epoch {epoch}).")
