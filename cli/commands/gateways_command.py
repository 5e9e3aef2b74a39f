"""`torchrelay gateways ...`: hosts that speak HTTP, how they join and leave."""

from typing import Annotated

import typer

from torchrelay.cli.commands import member_options, options
from torchrelay.cli.faults import FaultReportingGroup

app = typer.Typer(cls=FaultReportingGroup, help="List, invite and revoke gateways.", no_args_is_help=True)


member_options.add_list(app, "gateway")


@app.command()
def show(
    name: member_options.Name,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Show a gateway."""
    from torchrelay.cli.remote import member_tables, rendering
    from torchrelay.cli.remote.connected import connected

    with connected("management", management) as client:
        member = client.member("gateway", name)
    rendering.show(member, as_json, lambda one: member_tables.member(one, None))


@app.command()
def invite(
    name: member_options.WantedName = None,
    manage: Annotated[
        bool, typer.Option("--manage/--no-manage", help="Whether it may change models, keys and members.")
    ] = True,
    ttl: member_options.Ttl = "1h",
    uses: member_options.Uses = 1,
    ephemeral: member_options.Ephemeral = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Print the line that a new gateway's host runs to join. It is a secret until it is used."""
    from torchrelay.cli.remote.connected import connected

    ttl_s = member_options.seconds(ttl, "--ttl")
    with connected("management", management) as client:
        invited = client.invite(
            "gateway", name=name, manage=manage, ttl_s=ttl_s, uses=uses, ephemeral=ephemeral
        )
    member_options.show_invited(invited, "gateway", uses, as_json=as_json)


member_options.add_invitations(app, "gateway")


@app.command()
def revoke(
    name: member_options.Name,
    yes: member_options.Yes = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Cut a gateway off at once, and never let its key in again."""
    member_options.confirm(f"Cut {name} off and end its key? Its clients get no more answers.", yes=yes)
    member_options.change(management, as_json, lambda client: client.revoke("gateway", name))


member_options.add_forget(app, "gateway")
