"""What a command says when it can't go on: its lines on stderr, and exit status 1."""

from typing import Any

import typer
from typer.core import TyperGroup

from torchrelay.shared.terminal import printable


class Fault(Exception):
    """A command failed; the message says what failed and what to do next."""


#: What ends a command with a line, not with a traceback. The last is for paths that aren't UTF-8: settings
#: can't hold them.
Reported = Fault | OSError | UnicodeEncodeError
REPORTED = (Fault, OSError, UnicodeEncodeError)


class FaultReportingGroup(TyperGroup):
    """A group of commands that turns a fault into its lines and exit status."""

    def invoke(self, ctx: Any) -> Any:  # typer's own types: the context's class differs between its versions
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # typer's own: who reads our output has seen enough
        except REPORTED as fault:
            typer.echo(written(text_of(fault)), err=True)
            raise typer.Exit(1) from fault


def text_of(fault: Reported) -> str:
    """Say why a command failed, in the system's words where it was the system that refused something."""
    if isinstance(fault, UnicodeEncodeError):
        return f"{fault.object!a} can't be written in {fault.encoding.upper()}: choose another name"
    if isinstance(fault, FileNotFoundError) and not fault.filename:
        return "the folder where it was started is gone: start it in another"
    if isinstance(fault, OSError):
        return printable(": ".join(str(part) for part in (fault.filename, fault.strerror or fault) if part))
    return printable(str(fault))


def written(text: str) -> str:
    """Write a fault for a terminal: its first line behind our name, the others below it."""
    first, *others = [line.rstrip() for line in text.splitlines() if line.strip()] or ["failed"]
    return "\n".join([f"torchrelay: {first}", *(f"  {line.lstrip()}" for line in others)])
