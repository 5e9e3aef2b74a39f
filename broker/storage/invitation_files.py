"""Invitations in files, for parts that are started together with the broker, as containers are. Blocking.

Whoever can read such a file can join: any number of hosts, which are forgotten when they have been silent for
long. The registry holds the public half alone; the secret one is in the file, and nowhere else.
"""

import stat
from pathlib import Path

from torchrelay.broker.membership.membership_changes import OwnKeys
from torchrelay.broker.models.records import EndedKey, EndKeys, InvitationRecord, PutInvitation, Snapshot
from torchrelay.broker.storage.registry import Registry
from torchrelay.shared import private_files
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.settings import BrokerSettings, InvitationFile
from torchrelay.shared.wire import invitations, sockets
from torchrelay.shared.wire.curve import KeyPair

#: In a folder that was set up for a group (setgid), the file is the group's to read.
_GROUP_MODE = 0o640


def keep(settings: BrokerSettings, keys: OwnKeys, registry: Registry, wall_ms: int) -> None:
    """See to it that each file holds an invitation that lets in; one that does is kept.

    It is written anew, with the same secret, where the broker's key or addresses have changed. Raises
    StoreFailed.
    """
    for wanted in settings.invitation_files:
        known = registry.load()
        pair = _pair_of(wanted)
        if pair is None or not _lets_in(known, pair, wanted):
            former, pair = pair, sockets.new_key_pair()
            registry.apply(PutInvitation(_record(pair, wanted, wall_ms)))
            # Written before the former one ends: a broker that dies here leaves one that lets in.
            _write(settings, wanted, keys, pair)
            _end(former, known, wanted, registry, wall_ms)
        else:
            _write(settings, wanted, keys, pair)


def _pair_of(wanted: InvitationFile) -> KeyPair | None:
    """Return the pair of the invitation that a file holds; None for a file that holds none."""
    try:
        text = Path(wanted.path).read_text(encoding="utf-8")
        return sockets.pair_of(invitations.parse(text).secret_key.hex())
    except (FileNotFoundError, UnicodeDecodeError, invitations.NoInvitation):
        return None
    except OSError as error:
        raise _failed(wanted, error) from error


def _lets_in(known: Snapshot, pair: KeyPair, wanted: InvitationFile) -> bool:
    found = next((one for one in known.invitations if one.public_key == pair.public), None)
    return (
        found is not None
        and found.role == wanted.role
        and (found.expires_at_ms, found.uses_left) == (None, None)
        and found.is_ephemeral
    )


def _record(pair: KeyPair, wanted: InvitationFile, wall_ms: int) -> InvitationRecord:
    return InvitationRecord(
        pair.public,
        wanted.role,
        name="",
        models="",
        made_at_ms=wall_ms,
        expires_at_ms=None,
        uses_left=None,
        is_ephemeral=True,
        may_manage=wanted.role == "gateway",
    )


def _end(
    former: KeyPair | None, known: Snapshot, wanted: InvitationFile, registry: Registry, wall_ms: int
) -> None:
    """End what the file held before, if that still let somebody in as something else."""
    if former is not None and any(one.public_key == former.public for one in known.invitations):
        why = "its file holds another invitation now"
        ended = EndedKey(former.public, wanted.role, "", was_member=False, why=why, at_ms=wall_ms)
        registry.apply(EndKeys((ended,)))


def _write(settings: BrokerSettings, wanted: InvitationFile, keys: OwnKeys, pair: KeyPair) -> None:
    """Write the file, unless it holds just that. Raises StoreFailed."""
    text = invitations.Invitation(
        settings.join_addresses,
        bytes.fromhex(keys.present.public),
        bytes.fromhex(pair.secret),
        wanted.role,
    ).to_text()
    path = Path(wanted.path)
    content = text.encode() + b"\n"
    try:
        private_files.make_folder(path.parent)
        is_group = bool(path.parent.stat().st_mode & stat.S_ISGID)
        if not path.exists() or path.read_bytes() != content:
            private_files.replace(path, content)
        elif not is_group:
            private_files.make_file(path)  # which takes it from others
        if is_group:
            path.chmod(_GROUP_MODE)
    except OSError as error:
        raise _failed(wanted, error) from error


def _failed(wanted: InvitationFile, error: OSError) -> StoreFailed:
    return StoreFailed(
        f"The invitation file {wanted.path} can't be read or written: {error.strerror}",
        "let the broker's user write there, or name another by --invitation-file",
    )
