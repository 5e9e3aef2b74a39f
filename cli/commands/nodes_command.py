"""`torchrelay nodes ...`: hosts that run workers, how they join and leave."""

from typing import TYPE_CHECKING, Annotated

import typer

from torchrelay.cli.commands import member_options, options
from torchrelay.cli.faults import FaultReportingGroup

if TYPE_CHECKING:  # it takes time to load, and `--help` needs none
    from torchrelay.cli.remote.member_calls import MemberCalls

app = typer.Typer(cls=FaultReportingGroup, help="List, invite, drain and revoke nodes.", no_args_is_help=True)


@app.command("list")
def list_nodes(
    management: options.Management = options.DEFAULT_MANAGEMENT, as_json: options.Json = False
) -> None:
    """List nodes: those that are here, and those that have joined and are away."""
    from torchrelay.cli.remote import member_tables, rendering

    rendering.show(_calls(management).members(), as_json, lambda found: member_tables.members(found, "node"))


@app.command()
def show(
    name: member_options.Name,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Show a node, its devices and its workers."""
    from torchrelay.cli.remote import member_tables, rendering

    calls = _calls(management)
    rendering.show(calls.member(name), as_json, lambda node: member_tables.member(node, calls.client.fleet()))


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
    from torchrelay.cli.remote import member_tables, rendering

    ttl_s = member_options.seconds(ttl, "--ttl")
    invited = _calls(management).invite(name=name, models=models, ttl=ttl_s, uses=uses, ephemeral=ephemeral)
    if as_json:
        rendering.show(invited, as_json, lambda one: one.command)
    else:
        typer.echo(invited.command)  # in one line, however narrow the terminal
        typer.echo(member_tables.advice(invited, "node", uses), err=True)


@app.command()
def invitations(
    management: options.Management = options.DEFAULT_MANAGEMENT, as_json: options.Json = False
) -> None:
    """List the invitations that let a node in, without what is secret of them."""
    from torchrelay.cli.remote import member_tables, rendering

    found = _calls(management).invitations()
    rendering.show(found, as_json, lambda listed: member_tables.invitations(listed, "node"))


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
    """Cut a node off at once, with its workers, and never let its key in again."""
    from torchrelay.cli.remote import rendering

    member_options.confirm(
        f"Cut {name} off and end its key? What runs there is tried elsewhere, its workers stop.", yes=yes
    )
    rendering.show(_calls(management).change(name, "revoke"), as_json, lambda said: said.status)


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
    from torchrelay.shared.terminal import printable

    calls = _calls(management)
    if no_wait:
        rendering.show(calls.change(name, "drain"), as_json, lambda said: said.status)
        return
    node = drain_watch.drain(calls, name, lambda line: typer.echo(printable(line), err=as_json))
    rendering.show(node, as_json, lambda done: drain_watch.summary(done))


@app.command()
def resume(
    name: member_options.Name,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Give a node that drains work again."""
    from torchrelay.cli.remote import rendering

    rendering.show(_calls(management).change(name, "resume"), as_json, lambda said: said.status)


@app.command()
def forget(
    name: member_options.Name,
    yes: member_options.Yes = False,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Forget a node, as if it had never joined: one that is gone, or was revoked."""
    from torchrelay.cli.remote import rendering

    member_options.confirm(f"Forget {name}? If it still runs, it is cut off and has to join anew.", yes=yes)
    rendering.show(_calls(management).forget(name), as_json, lambda said: said.status)


def _calls(management: str) -> "MemberCalls":
    from torchrelay.cli.remote.client import RestClient
    from torchrelay.cli.remote.member_calls import MemberCalls

    return MemberCalls(RestClient("management", management), "node")
