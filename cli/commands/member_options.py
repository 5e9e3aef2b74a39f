"""What the commands about nodes and gateways share: options, questions, and the commands that are alike."""

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from torchrelay.cli.commands import options

if TYPE_CHECKING:  # they take time to load, and `--help` needs none
    from torchrelay.client.sync_client import Client
    from torchrelay.shared.api_bodies import InvitedBody, StatusBody
    from torchrelay.shared.wire.fields import MemberRole

Name = Annotated[str, typer.Argument(metavar="NAME", help="What `list` calls it.")]
InvitationId = Annotated[str, typer.Argument(metavar="ID", help="As `invitations` shows it.")]
WantedName = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="What the host is called. [default: its own name]"),
]
Ttl = Annotated[
    str,
    typer.Option(metavar="TIME", help="Until it expires: 90s, 30m, 1h, 7d, or `never`."),
]
Uses = Annotated[int, typer.Option(min=0, metavar="N", help="Hosts that it lets in; 0 for any number.")]
Ephemeral = Annotated[
    bool, typer.Option("--ephemeral", help="Forget hosts that have been silent for ten minutes.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str, option: str) -> int:
    """Read a time; `never` is 0. Raises BadParameter."""
    if text == "never":
        return 0
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if found is None or int(found[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no time: 90s, 30m, 1h, 7d or never", param_hint=option)
    return int(found[1]) * _UNITS[found[2]]


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal whether to go on; end the command where the answer isn't yes."""
    if not yes and sys.stdin.isatty():
        typer.confirm(question, abort=True, err=True)


def change(management: str, as_json: bool, call: "Callable[[Client], StatusBody]") -> None:
    """Have something changed, and print what the server says."""
    from torchrelay.cli.remote import rendering
    from torchrelay.cli.remote.connected import connected

    with connected("management", management) as client:
        said = call(client)
    rendering.show(said, as_json, lambda said: said.status)


def show_invited(invited: "InvitedBody", role: "MemberRole", uses: int, *, as_json: bool) -> None:
    """Print the line that the new host runs, in one however narrow the terminal is, and advice beside it."""
    from torchrelay.cli.remote import member_tables, rendering

    if as_json:
        rendering.show(invited, as_json, lambda one: one.command)
    else:
        typer.echo(invited.command)
        typer.echo(member_tables.advice(invited, role, uses), err=True)


def add_list(app: typer.Typer, role: "MemberRole") -> None:
    """Add `list`."""
    text = f"List {role}s: those that are here, and those that have joined and are away."

    @app.command("list", help=text)
    def list_members(
        management: options.Management = options.DEFAULT_MANAGEMENT, as_json: options.Json = False
    ) -> None:
        from torchrelay.cli.remote import member_tables, rendering
        from torchrelay.cli.remote.connected import connected

        with connected("management", management) as client:
            found = client.members(role)
        rendering.show(found, as_json, lambda listed: member_tables.members(listed, role))


def add_invitations(app: typer.Typer, role: "MemberRole") -> None:
    """Add `invitations` and `uninvite`."""
    text = f"List the invitations that let a {role} in, without what is secret of them."

    @app.command(help=text)
    def invitations(
        management: options.Management = options.DEFAULT_MANAGEMENT, as_json: options.Json = False
    ) -> None:
        from torchrelay.cli.remote import member_tables, rendering
        from torchrelay.cli.remote.connected import connected

        with connected("management", management) as client:
            found = client.invitations(role)
        rendering.show(found, as_json, lambda listed: member_tables.invitations(listed, role))

    @app.command(help="Withdraw an invitation; who has joined by it stays.")
    def uninvite(
        invitation: InvitationId,
        management: options.Management = options.DEFAULT_MANAGEMENT,
        as_json: options.Json = False,
    ) -> None:
        change(management, as_json, lambda client: client.end_invitation(role, invitation))


def add_forget(app: typer.Typer, role: "MemberRole") -> None:
    """Add `forget`."""
    text = f"Forget a {role}, as if it had never joined: one that is gone, or was revoked."

    @app.command(help=text)
    def forget(
        name: Name,
        yes: Yes = False,
        management: options.Management = options.DEFAULT_MANAGEMENT,
        as_json: options.Json = False,
    ) -> None:
        confirm(f"Forget {name}? If it still runs, it is cut off and has to join anew.", yes=yes)
        change(management, as_json, lambda client: client.forget(role, name))
