"""`torchrelay nodes ...`: hosts that run workers, how they join and leave."""

from typing import Annotated

import typer

from torchrelay.cli.commands import member_options, options
from torchrelay.cli.faults import FaultReportingGroup

app = typer.Typer(cls=FaultReportingGroup, help="List, invite, drain and revoke nodes.", no_args_is_help=True)


member_options.add_list(app, "node")


@app.command()
def show(
    name: member_options.Name,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Show a node, its devices and its workers."""
    from torchrelay.cli.remote import member_tables, rendering
    from torchrelay.cli.remote.connected import connected

    with connected("management", management) as client:
        rendering.show(
            client.member("node", name), as_json, lambda node: member_tables.member(node, client.fleet())
        )


@app.command()
def invite(
    name: member_options.WantedName = None,
    models: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Models that the node may hold. [default: all]")
    ] = None,
    ttl: member_options.Ttl = "1h",
    uses: member_options.Uses = 1,
    ephemeral: member_options.Ephemeral = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Print the line that a new host runs to join. It is a secret until it is used."""
    from torchrelay.cli.remote.connected import connected

    ttl_s = member_options.seconds(ttl, "--ttl")
    with connected("management", management) as client:
        invited = client.invite("node", name=name, models=models, ttl_s=ttl_s, uses=uses, ephemeral=ephemeral)
    member_options.show_invited(invited, "node", uses, as_json=as_json)


member_options.add_invitations(app, "node")


@app.command()
def revoke(
    name: member_options.Name,
    yes: member_options.Yes = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Cut a node off at once, with its workers, and never let its key in again."""
    member_options.confirm(
        f"Cut {name} off and end its key? What runs there is tried elsewhere, its workers stop.", yes=yes
    )
    member_options.change(management, as_json, lambda client: client.revoke("node", name))


@app.command()
def drain(
    name: member_options.Name,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once.")] = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Give a node no new work, and wait until nothing is left on it.

    Its workers are started on other nodes, and end when these are ready and their work is done. Where there
    is no place for one, it ends all the same, and that is said.
    """
    from torchrelay.cli.remote import drain_watch, rendering
    from torchrelay.cli.remote.connected import connected
    from torchrelay.shared.terminal import printable

    if no_wait:
        member_options.change(management, as_json, lambda client: client.drain(name))
        return
    with connected("management", management) as client:
        node = drain_watch.drain(client, name, lambda line: typer.echo(printable(line), err=as_json))
    rendering.show(node, as_json, lambda done: drain_watch.summary(done))


@app.command()
def resume(
    name: member_options.Name,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Give a node that drains work again."""
    member_options.change(management, as_json, lambda client: client.resume(name))


member_options.add_forget(app, "node")
