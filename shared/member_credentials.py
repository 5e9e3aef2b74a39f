"""What a member of a fleet keeps on disk: its own secret key, and where its broker is and how it is known.

The file is its owner's alone. Blocking.
"""

import logging
from pathlib import Path
from typing import Annotated

import msgspec

from torchrelay.shared import private_files
from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire import curve
from torchrelay.shared.wire import fields as f
from torchrelay.shared.wire.invitations import ADDRESSES_LIMIT
from torchrelay.shared.wire.redial_policy import BrokerPlace

logger = logging.getLogger(__name__)

#: Exit status of a gateway or node whose key the broker refuses, where its settings ask for one.
REFUSED_STATUS = 4
#: A file above this isn't ours: it would hold thousands of addresses.
SIZE_LIMIT_BYTES = 256 << 10
#: The present key of the broker, the next, and some that a broker has had.
BROKER_KEYS_LIMIT = 16


class CredentialsError(Exception):
    """A file of credentials that can't be used; says what is wrong with it, and never shows a key."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a member reaches its broker, by what both prove who they are, and what the member is called.

    `broker_keys` are public, the present one first. `secret_key` is the member's own, in hex. It is
    `is_confirmed` once the broker is known to have taken its public half on.
    """

    addresses: Annotated[tuple[f.Said, ...], msgspec.Meta(min_length=1, max_length=ADDRESSES_LIMIT)]
    broker_keys: Annotated[tuple[f.PublicKey, ...], msgspec.Meta(min_length=1, max_length=BROKER_KEYS_LIMIT)]
    secret_key: f.PublicKey
    role: f.MemberRole
    name: f.Name = ""
    is_confirmed: bool = False

    def __repr__(self) -> str:
        return f"Credentials(role={self.role!r}, name={self.name!r}, addresses={self.addresses!r})"


def read(path: Path) -> Credentials | None:
    """Read a member's credentials; None where there is no file.

    Raises CredentialsError: it is there and can't be read, others could have made or read it, or it is
    something else.
    """
    try:
        private_files.refuse_others(path)
        with path.open("rb") as file:
            private_files.keep_to_owner(file.fileno(), private_files.OTHERS)
            content = file.read(SIZE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CredentialsError(
            f"The credentials in {quoted(path)} can't be read: {error.strerror}"
        ) from error
    if len(content) > SIZE_LIMIT_BYTES:
        raise _is_other(path)
    try:
        return msgspec.json.decode(content, type=Credentials)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _is_other(path) from None  # whose text could show a key


def require(path: Path) -> Credentials:
    """Read a member's credentials as `read` does; raises CredentialsError also where there are none."""
    credentials = read(path)
    if credentials is None:
        raise CredentialsError(
            f"There are no credentials in {quoted(path)}: on the broker's host run `torchrelay nodes invite`"
            " (or `gateways invite`), and start here with --join"
        )
    return credentials


def broker_place(broker_address: str, credentials_file: str | None) -> BrokerPlace:
    """Return where a part finds its broker by its settings. Raises CredentialsError."""
    if credentials_file is None:
        return BrokerPlace((broker_address,))
    kept = require(Path(credentials_file))
    return BrokerPlace(kept.addresses, kept.broker_keys, kept.secret_key)


def broker_keys(path: Path, own: str) -> tuple[str, ...]:
    """Return the keys that are kept by now for the member with the secret key `own`; none if it has none."""
    try:
        kept = read(path)
    except CredentialsError:
        return ()
    return kept.broker_keys if kept is not None and kept.secret_key == own else ()


def keep_broker_keys(path: Path, own: str, broker_keys: tuple[str, ...]) -> None:
    """Write the keys that the broker has by now for the member with the secret key `own`; log a failure.

    The keys are announced again while they are news, so a failure is no end.
    """
    try:
        kept = read(path)
        if kept is None or kept.secret_key != own or kept.broker_keys == broker_keys:
            return  # the host has joined anew meanwhile, or another process has written them
        write(path, msgspec.structs.replace(kept, broker_keys=broker_keys))
    except CredentialsError as error:
        logger.error("credentials.not_written", extra={"reason": str(error)})
        return
    logger.info("credentials.broker_keys_kept", extra={"keys": ", ".join(map(curve.shown, broker_keys))})


def write(path: Path, credentials: Credentials) -> None:
    """Write a member's credentials in the place of earlier ones, and make the folder if it is missing.

    Raises CredentialsError: nothing has changed then. What is there and can't be read is left as it is.
    """
    read(path)
    try:
        private_files.make_folder(path.parent)
        private_files.replace(path, msgspec.json.encode(credentials) + b"\n")
    except OSError as error:
        raise CredentialsError(
            f"The credentials can't be written to {quoted(path)}: {error.strerror}"
        ) from error


def _is_other(path: Path) -> CredentialsError:
    return CredentialsError(
        f"{quoted(path)} holds no credentials of this version: bring back a copy of it, or move it away and"
        " join by a new invitation"
    )
