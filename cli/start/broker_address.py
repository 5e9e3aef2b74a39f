"""Where a broker listens, and is looked for, when no address is said: a socket in a folder of its user's.

The folder is the first that can be used of the user's runtime folder, their folder for states, and one in
/tmp; whoever looks for a broker takes the first where one listens, since a broker that was killed leaves its
socket. Nobody else's folder is ever taken: who listens there would be sent requests, and could have nodes run
code.
"""

import os
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from torchrelay.cli.faults import Fault
from torchrelay.cli.start import part_settings
from torchrelay.shared import private_files

SOCKET_NAME = "broker.sock"
ADVICE = "name an address with --address ipc://PATH"


class Place(msgspec.Struct, frozen=True):
    """Where to listen, and what to say of it."""

    address: str
    warnings: tuple[str, ...] = ()


def folders(environ: Mapping[str, str], user_id: int, temporary: str = "/tmp") -> list[Path]:
    """List the folders of a user's brokers; a relative one counts as none, see XDG."""
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    states = Path(environ.get("XDG_STATE_HOME") or Path(environ.get("HOME", ""), ".local", "state"))
    # The login makes the runtime folder, and takes it away; nobody else does.
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
            said = f"The broker listens on {address}, since another can't be used ({'; '.join(reasons)})"
            return Place(address, (said,) if reasons else ())
        reasons.append(f"{folder}: {why}")
    raise Fault(f"There is no folder for the broker's socket ({'; '.join(reasons)}): {ADVICE}")


def to_dial(places: Sequence[Path], user_id: int) -> str:
    """Return where this user's broker listens, or would listen first."""
    fitting = [folder for folder in places if part_settings.fits_socket(str(folder))]
    for folder in fitting:
        if _is_own(folder, user_id) and _is_listened_on(folder / SOCKET_NAME):
            return f"ipc://{folder}/{SOCKET_NAME}"
    return f"ipc://{fitting[0]}/{SOCKET_NAME}"


def _why_not(folder: Path, user_id: int) -> str | None:
    if not part_settings.fits_socket(str(folder)):
        return (
            f"its path is too long for a socket, which may have {part_settings.SOCKET_PATH_LIMIT_BYTES} bytes"
        )
    try:
        private_files.make_folder(folder)
        if not _is_own(folder, user_id):
            return "it is another user's"
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            return "it can't be written"
    except OSError as error:
        return str(error.strerror)
    return None


def _is_own(folder: Path, user_id: int) -> bool:
    """Tell whether it is a folder of this user's, and no link to one."""
    try:
        facts = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == user_id


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
    """Make the folder where this user's broker listens. Raises Fault where none can be used."""
    return to_listen(folders(environ, os.getuid()), os.getuid())


def of_this_user(environ: Mapping[str, str]) -> str:
    """Return where this user's broker is looked for."""
    return to_dial(folders(environ, os.getuid()), os.getuid())
