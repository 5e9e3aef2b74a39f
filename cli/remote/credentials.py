"""The access key that a command sends, and the certificates that it trusts."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from torchrelay.cli.commands.options import KEY_FILE_NAME
from torchrelay.cli.faults import Fault
from torchrelay.shared.torchserve.key_files import ENTRY_NAMES, KeyEntry

Port = Literal["management", "inference"]


def find_key(port: Port, environ: Mapping[str, str], folder: Path) -> str | None:
    """Find the key of an API: in TORCHRELAY_KEY, or in the key file of a server that was started here."""
    if key := environ.get("TORCHRELAY_KEY"):
        return key
    entry = read_key_file(folder / KEY_FILE_NAME).get(ENTRY_NAMES[port])
    return None if entry is None else entry.key


def headers(key: str | None) -> dict[str, str]:
    """Return the headers that carry a key."""
    return {"authorization": f"Bearer {key}"} if key else {}


def read_key_file(path: Path) -> dict[str, KeyEntry]:
    """Read a key file: its entries by their names, which `ENTRY_NAMES` has; {} where there is no file.

    Raises:
        Fault: it is there and can't be read, or is something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, KeyEntry])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Fault(f"{path} can't be read: {error.strerror}; set TORCHRELAY_KEY instead") from error
    except msgspec.MsgspecError as error:
        raise Fault(f"{path} is no key file of a server") from error


def trust(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Make a TLS context that trusts the system's authorities, and those in the PEM file TORCHRELAY_CA."""
    context = ssl.create_default_context()
    if file := environ.get("TORCHRELAY_CA"):
        try:
            context.load_verify_locations(file)
        except OSError as error:
            raise Fault(f"TORCHRELAY_CA={file} can't be used: {error}") from error
    return context


def untrusted(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Return the error of the server's certificate if that is why a connection failed."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None
