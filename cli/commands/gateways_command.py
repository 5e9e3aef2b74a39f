"""`torchrelay gateways ...`: hosts that speak HTTP, how they join and leave."""

from typing import TYPE_CHECKING, Annotated

import typer

from torchrelay.cli.commands import member_options, options
from torchrelay.cli.faults import FaultReportingGroup

if TYPE_CHECKING:  # it takes time to load, and `--help` needs none
    from torchrelay.cli.remote.member_calls import MemberCalls

app = typer.Typer(cls=FaultReportingGroup, help="List, invite and revoke gateways.", no_args_is_help=True)


@app.command("list")
def list_gateways(
    management: options.Management = options.DEFAULT_MANAGEMENT, as_json: options.Json = False
) -> None:
    """List gateways: those that are here, and those that have joined and are away."""
    from torchrelay.cli.remote import member_tables, rendering

    found = _calls(management).members()
    rendering.show(found, as_json, lambda listed: member_tables.members(listed, "gateway"))


@app.command()
def show(
    name: member_options.Name,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Show a gateway."""
    from torchrelay.cli.remote import member_tables, rendering

    member = _calls(management).member(name)
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
    from torchrelay.cli.remote import member_tables, rendering

    ttl_s = member_options.seconds(ttl, "--ttl")
    invited = _calls(management).invite(name=name, manage=manage, ttl=ttl_s, uses=uses, ephemeral=ephemeral)
    if as_json:
        rendering.show(invited, as_json, lambda one: one.command)
    else:
        typer.echo(invited.command)  # in one line, however narrow the terminal
        typer.echo(member_tables.advice(invited, "gateway", uses), err=True)


@app.command()
def invitations(
    management: options.Management = options.DEFAULT_MANAGEMENT, as_json: options.Json = False
) -> None:
    """List the invitations that let a gateway in, without what is secret of them."""
    from torchrelay.cli.remote import member_tables, rendering

    found = _calls(management).invitations()
    rendering.show(found, as_json, lambda listed: member_tables.invitations(listed, "gateway"))


@app.command()
def uninvite(
    invitation: member_options.InvitationId,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Withdraw an invitation; who has joined by it stays."""
    from torchrelay.cli.remote import rendering

    rendering.show(_calls(management).end_invitation(invitation), as_json, lambda said: said.status)


@app.command()
def revoke(
    name: member_options.Name,
    yes: member_options.Yes = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Cut a gateway off at once, and never let its key in again."""
    from torchrelay.cli.remote import rendering

    member_options.confirm(f"Cut {name} off and end its key? Its clients get no more answers.", yes=yes)
    rendering.show(_calls(management).change(name, "revoke"), as_json, lambda said: said.status)


@app.command()
def forget(
    name: member_options.Name,
    yes: member_options.Yes = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Forget a gateway, as if it had never joined: one that is gone, or was revoked."""
    from torchrelay.cli.remote import rendering

    member_options.confirm(f"Forget {name}? If it still runs, it is cut off and has to join anew.", yes=yes)
    rendering.show(_calls(management).forget(name), as_json, lambda said: said.status)


def _calls(management: str) -> "MemberCalls":
    from torchrelay.cli.remote.client import RestClient
    from torchrelay.cli.remote.member_calls import MemberCalls

    return MemberCalls(RestClient("management", management), "gateway")
