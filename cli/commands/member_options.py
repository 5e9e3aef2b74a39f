"""Options of the commands about nodes and gateways, and what they ask before what can't be taken back."""

import re
import sys
from typing import Annotated

import typer

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
