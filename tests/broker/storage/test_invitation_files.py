"""Invitations in files: kept while they let in, made anew when they don't, and secret all the while."""

import stat
from pathlib import Path

import pytest

from torchrelay.broker.membership.membership_changes import OwnKeys
from torchrelay.broker.models.records import ForgetKeys
from torchrelay.broker.storage import invitation_files
from torchrelay.broker.storage.registry import Registry
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.settings import BrokerSettings, InvitationFile
from torchrelay.shared.wire import invitations, sockets
from torchrelay.shared.wire.fields import MemberRole


class Broker:
    """What of a broker these files are about, at each of its starts."""

    def __init__(self, folder: Path, role: MemberRole = "node") -> None:
        self.path = folder / "join" / "invitation"
        self.registry = Registry(folder / "registry.sqlite")
        self.keys = OwnKeys(sockets.new_key_pair())
        self.role: MemberRole = role
        self.address = "tcp://broker:7700"

    def start(self) -> invitations.Invitation:
        settings = BrokerSettings(
            addresses=(self.address,),
            state_dir="s",
            invitation_files=(InvitationFile(self.role, str(self.path)),),
        )
        invitation_files.keep(settings, self.keys, self.registry, 1000)
        return invitations.parse(self.path.read_text())

    def let_in(self) -> list[str]:
        """The public keys of invitations that let somebody in."""
        return [one.public_key for one in self.registry.load().invitations]


def public_key(invitation: invitations.Invitation) -> str:
    return sockets.pair_of(invitation.secret_key.hex()).public


@pytest.mark.parametrize("role", ["node", "gateway"])
def test_any_number_of_hosts_join_by_it_and_are_forgotten_when_silent(
    tmp_path: Path, role: MemberRole
) -> None:
    broker = Broker(tmp_path, role)
    made = broker.start()
    (record,) = broker.registry.load().invitations
    assert (made.role, made.addresses) == (role, ("tcp://broker:7700",))
    assert made.broker_key.hex() == broker.keys.present.public
    assert (record.public_key, record.role) == (public_key(made), role)
    assert (record.uses_left, record.expires_at_ms, record.is_ephemeral) == (None, None, True)
    assert record.may_manage == (role == "gateway")


def test_it_is_its_owners_alone_and_its_secret_nowhere_else(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    made = broker.start()
    assert stat.S_IMODE(broker.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(broker.path.parent.stat().st_mode) == 0o700
    broker.registry.close()
    written = b"".join(path.read_bytes() for path in tmp_path.glob("registry.sqlite*"))
    assert public_key(made).encode() in written
    for secret in (made.secret_key, made.secret_key.hex().encode()):
        assert secret not in written
    broker.path.chmod(0o644)
    broker.registry = Registry(tmp_path / "registry.sqlite")
    broker.start()
    assert stat.S_IMODE(broker.path.stat().st_mode) == 0o600


def test_a_folder_that_was_set_up_for_a_group_lets_the_group_read(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    broker.path.parent.mkdir()
    broker.path.parent.chmod(0o2750)
    for _ in range(2):
        broker.start()
        assert stat.S_IMODE(broker.path.stat().st_mode) == 0o640


def test_it_is_kept_as_long_as_it_lets_in(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    first, written = broker.start(), broker.path.stat()
    assert broker.start() == first
    assert broker.path.stat().st_ino == written.st_ino
    assert len(broker.let_in()) == 1


def test_with_another_key_or_address_of_the_broker_it_has_the_same_secret(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    first = broker.start()
    broker.keys = OwnKeys(sockets.new_key_pair())
    broker.address = "tcp://elsewhere:7700"
    second = broker.start()
    assert second.secret_key == first.secret_key
    assert second.broker_key.hex() == broker.keys.present.public
    assert second.addresses == ("tcp://elsewhere:7700",)
    assert broker.let_in() == [public_key(first)]


def test_one_that_lets_nobody_in_any_more_is_made_anew(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    first = broker.start()
    broker.registry.apply(ForgetKeys((public_key(first),)))
    second = broker.start()
    assert second.secret_key != first.secret_key
    assert broker.let_in() == [public_key(second)]


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff\xfe", b"torchrelay-join-1.AAAA"])
def test_a_file_that_holds_none_gets_one(tmp_path: Path, content: bytes) -> None:
    broker = Broker(tmp_path)
    broker.path.parent.mkdir()
    broker.path.write_bytes(content)
    made = broker.start()
    assert broker.let_in() == [public_key(made)]


def test_one_of_another_role_or_for_fewer_is_not_left_in_the_file(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    first = broker.start()
    broker.role = "gateway"
    second = broker.start()
    assert second.role == "gateway"
    assert broker.let_in() == [public_key(second)]
    (ended,) = broker.registry.load().ended_keys
    assert (ended.public_key, ended.was_member) == (public_key(first), False)


def test_a_file_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    (tmp_path / "join").write_bytes(b"in the way")
    with pytest.raises(StoreFailed, match="invitation file") as raised:
        broker.start()
    assert "--invitation-file" in raised.value.details
