"""`torchrelay ping`: whether a broker answers; the only zmq module here."""

from typing import Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import Fault


def ping(
    broker: options.Broker = None,
    timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How long to wait.")] = 3.0,
) -> None:
    """Ask a broker whether it is there; exit with 1 if it isn't."""
    import zmq

    from torchrelay.cli.start import broker_address, checks
    from torchrelay.shared.settings import environment
    from torchrelay.shared.wire import codec, presence, sockets

    hint = "" if broker else "; one of another user or host is named by --broker"
    broker = broker or broker_address.of_this_user(environment())
    checks.require_broker_addresses(dialled=broker)
    context = zmq.Context()
    try:
        socket = sockets.dial(context, broker, "ping", waits_to_send=True)
        socket.send(codec.encode(presence.PROBE, epoch=0))
        if not socket.poll(int(timeout * 1000)):
            raise Fault(f"no broker answers at {broker}: is it running, and can this host reach it?{hint}")
        _, epoch = codec.decode(socket.recv())
    except (zmq.ZMQError, codec.WireError) as error:
        raise Fault(f"{broker} is no broker's address: {error}") from error
    finally:
        context.destroy()
    typer.echo(f"The broker at {broker} lives (epoch {epoch}).")
