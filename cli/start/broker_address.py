"""The broker's address when none is given: a socket in a folder that belongs to the user.

A broker takes the first usable one of the user's runtime folder, their state folder, and a folder in /tmp.
Gateways, nodes and `ping` take the first one in which a broker listens, since a broker that was killed leaves
its socket; before there is a broker, the one that it would take. A folder of another user is never used:
their process would get the requests, and could have nodes run code.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from torchrelay.cli.faults import Fault
from torchrelay.cli.start import checks, part_settings
from torchrelay.shared import private_files
from torchrelay.shared.settings import SOCKET_PATH_LIMIT_BYTES, is_wildcard

SOCKET_NAME = "broker.sock"
ADVICE = "name an address with --address ipc://PATH"
#: An address of documentation, to which nothing is sent.
_ELSEWHERE = ("192.0.2.1", 9)


class Place(msgspec.Struct, frozen=True):
    """An address to listen on, "" for none, and warnings about it."""

    address: str
    warnings: tuple[str, ...] = ()


def folders(environ: Mapping[str, str], user_id: int, temporary: str = "/tmp") -> list[Path]:
    """List the folders of a user's brokers, best first; relative ones are left out, as XDG demands."""
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    states = Path(environ.get("XDG_STATE_HOME") or Path(environ.get("HOME", ""), ".local", "state"))
    # Only the login makes and removes the runtime folder.
    parents = [*([runtime] if runtime.is_dir() else []), states]
    absolute = [parent / "torchrelay" for parent in parents if parent.is_absolute()]
    return [*absolute, Path(temporary, f"torchrelay-broker-{user_id}")]


def to_listen(places: Sequence[Path], user_id: int) -> Place:
    """Make the folder of a broker's socket.

    Raises:
        Fault: none can be used.
    """
    reasons: list[str] = []
    for folder in places:
        why = _why_not(folder, user_id)
        if why is None:
            address = f"ipc://{folder}/{SOCKET_NAME}"
            warning = f"The broker listens on {address}, since another can't be used ({'; '.join(reasons)})"
            return Place(address, (warning,) if reasons else ())
        reasons.append(f"{folder}: {why}")
    raise Fault(f"There is no folder for the broker's socket ({'; '.join(reasons)}): {ADVICE}")


def to_dial(places: Sequence[Path], user_id: int) -> str:
    """Return the address on which this user's broker listens, or would listen if it started now."""
    fitting = [folder for folder in places if part_settings.fits_socket(str(folder))]
    listening = (
        folder
        for folder in fitting
        if private_files.is_folder_of(folder, user_id) and _is_listened_on(folder / SOCKET_NAME)
    )
    usable = (folder for folder in fitting if _is_usable(folder, user_id))
    return f"ipc://{next(listening, None) or next(usable, fitting[0])}/{SOCKET_NAME}"


def _is_usable(folder: Path, user_id: int) -> bool:
    """Return whether a broker could listen in a folder, which is not made for that."""
    if os.path.lexists(folder):
        return private_files.is_folder_of(folder, user_id) and os.access(folder, os.W_OK | os.X_OK)
    parent = next(parent for parent in folder.parents if os.path.exists(parent))
    return os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)


def _why_not(folder: Path, user_id: int) -> str | None:
    if not part_settings.fits_socket(str(folder)):
        return f"its path is too long for a socket, which may have {SOCKET_PATH_LIMIT_BYTES} bytes"
    try:
        private_files.make_folder(folder)
        if not private_files.is_folder_of(folder, user_id):
            return "it is another user's"
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            return "it can't be written"
    except OSError as error:
        return str(error.strerror)
    return None


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # many connect to it just now
        except OSError:
            return False
    return True


def own_place(environ: Mapping[str, str]) -> Place:
    """Make the folder in which this user's broker listens. Raises Fault if none can be used."""
    return to_listen(folders(environ, os.getuid()), os.getuid())


def of_this_user(environ: Mapping[str, str]) -> str:
    """Return the address of this user's broker for those that dial it."""
    return to_dial(folders(environ, os.getuid()), os.getuid())


def beside(addresses: Sequence[str], state_dir: str) -> Place:
    """Return a socket in the state folder for a broker that is told tcp addresses alone.

    Commands and parts of the same host need no key there. It is left out where its path is too long.
    """
    folder = Path(state_dir).absolute()
    if any(one.startswith("ipc://") for one in addresses):
        return Place("")
    if not part_settings.fits_socket(str(folder)):
        return Place("", (f"The broker listens on no unix socket: {folder} is too long a path for one",))
    return Place(f"ipc://{folder}/{SOCKET_NAME}")


def advertised(addresses: Sequence[str], said: Sequence[str]) -> tuple[str, ...]:
    """Return where other hosts reach a broker, for invitations: what was said, or what it listens on.

    One that listens on all of its host's addresses is reached at the one that leads outwards, and by name.
    Raises Fault for what can't be a broker's address.
    """
    for one in said:
        checks.require_broker_addresses(dialled=one)
    if said:
        return tuple(said)
    found: list[str] = []
    for address in addresses:
        if not address.startswith("tcp://"):
            continue
        if is_wildcard(address):
            port = address.rpartition(":")[2]
            found += [f"tcp://{host}:{port}" for host in (_outward_address(), socket.gethostname()) if host]
        else:
            found.append(address)
    return tuple(dict.fromkeys(found))


def _outward_address() -> str | None:
    """Return the address of this host that others see; None where no route leads outwards."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)  # sends nothing
        except OSError:
            return None
        return str(probe.getsockname()[0])
