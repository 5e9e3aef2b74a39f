"""How a command gets in: its key, and which certificates it trusts."""

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torchrelay.cli.commands.options import KEY_FILE_NAME
from torchrelay.cli.faults import Fault

Port = Literal["management", "inference"]


def find_key(port: Port, environ: Mapping[str, str], folder: Path) -> str | None:
    """Find the key of an API: in TORCHRELAY_KEY, or in the key file of a server that was started here."""
    if key := environ.get("TORCHRELAY_KEY"):
        return key
    return read_key_file(folder / KEY_FILE_NAME).get(port)


def read_key_file(path: Path) -> dict[str, str]:
    """Read a key file: key by API, where `API` stands for the one that renews; {} where there is none.

    Raises:
        Fault: it is there and can't be read, or is something else.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {api: entry["key"] for api, entry in entries.items() if isinstance(entry["key"], str)}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Fault(f"{path} can't be read: {error.strerror}; set TORCHRELAY_KEY instead") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Fault(f"{path} is no key file of a server") from error


def trust(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Trust the system's authorities, and those of the PEM file that TORCHRELAY_CA names."""
    context = ssl.create_default_context()
    if file := environ.get("TORCHRELAY_CA"):
        try:
            context.load_verify_locations(file)
        except OSError as error:
            raise Fault(f"TORCHRELAY_CA={file} can't be used: {error}") from error
    return context


def untrusted(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Find out whether a connection failed for the server's certificate."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None
