"""`torchrelay keys ...`: keys of a server that was started in this folder, and keys for a secrets file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import Fault, FaultReportingGroup

if TYPE_CHECKING:
    from torchrelay.shared.torchserve.key_files import KeyEntry

app = typer.Typer(cls=FaultReportingGroup, help="Show, renew and make access keys.", no_args_is_help=True)

KeyFile = Annotated[
    Path,
    typer.Option("--key-file", metavar="FILE", help="The key file of the server; it lies where that runs."),
]


@app.command("list")
def list_keys(key_file: KeyFile = Path(options.KEY_FILE_NAME), as_json: options.Json = False) -> None:
    """Show which keys the key file holds and when they expire; the keys themselves stay in it."""
    from torchrelay.cli.remote import rendering

    entries = _entries(key_file)
    if not entries:
        raise Fault(f"there is no {key_file}: the server writes it where it was started, if it asks for keys")
    listed = [{"api": name, "expires": entry.expires_at or "never"} for name, entry in entries.items()]
    rendering.show(listed, as_json, rendering.keys)


@app.command()
def renew(
    api: Annotated[str, typer.Argument(metavar="API", help="`inference` or `management`.")],
    key_file: KeyFile = Path(options.KEY_FILE_NAME),
    management: options.Management = options.DEFAULT_MANAGEMENT,
) -> None:
    """Have the server make a new key and write it into its key file; the old one ends."""
    from torchrelay.cli.remote.connected import connected
    from torchrelay.shared.torchserve.key_files import ENTRY_NAMES

    entries = _entries(key_file)
    entry = entries.get(ENTRY_NAMES["token"])
    match api:
        case "inference" | "management":
            if entry is None:
                why = "holds no key that may renew others" if entries else "isn't there"
                raise Fault(f"{key_file} {why}; name the server's with --key-file")
            with connected("management", management, key=entry.key) as client:
                client.renew_key(api)
        case _:
            raise typer.BadParameter(f"{api!r} is neither inference nor management")
    typer.echo(f"The new {api} key is in the server's key file.")


@app.command()
def make() -> None:
    """Print a key that nobody can guess, for a secrets file."""
    from torchrelay.shared import ids

    typer.echo(ids.secret())


def _entries(key_file: Path) -> "dict[str, KeyEntry]":
    from torchrelay.cli.remote.connected import unusable_settings_are_faults
    from torchrelay.client.server_access import read_key_file

    with unusable_settings_are_faults():
        return read_key_file(key_file)
