"""How a host comes to its broker: each way, and what is said where one is closed."""

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from torchrelay.cli.faults import Fault
from torchrelay.cli.start import broker_dialogue, joining
from torchrelay.cli.start.broker_dialogue import KeyRefused, NoAnswer, OtherBroker
from torchrelay.cli.start.joining import VARIABLE, Joining, Way
from torchrelay.shared import member_credentials
from torchrelay.shared.member_credentials import Credentials
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire import presence, sockets
from torchrelay.shared.wire.curve import Secured
from torchrelay.shared.wire.invitations import Invitation

TCP, OTHER_TCP, IPC = "tcp://10.0.0.1:7700", "tcp://10.0.0.2:7700", "ipc:///run/broker.sock"
BROKER, CARD = sockets.new_key_pair(), sockets.new_key_pair()
INVITATION = Invitation((TCP,), bytes.fromhex(BROKER.public), bytes.fromhex(CARD.secret), "node", "rack3")
NEXT = "cd" * 32


@dataclass
class Broker:
    """Answers in place of a broker: lets in by the invitation, and by the keys it has taken on."""

    invitations: set[str] = field(default_factory=lambda: {CARD.public})
    members: set[str] = field(default_factory=set)
    asked: list[tuple[str, m.Message]] = field(default_factory=list)
    #: What comes before a normal answer.
    failures: list[BaseException] = field(default_factory=list)
    #: Whether the answer to the next Enrol is lost.
    loses_answer: bool = False
    leave: str = ""

    def ask(
        self, address: str, question: m.Message, *, secured: Secured, timeout_s: float
    ) -> tuple[m.Message, int]:
        self.asked.append((address, question))
        if self.failures:
            raise self.failures.pop(0)
        if secured.broker_key != BROKER.public:
            raise OtherBroker
        if secured.own.public in self.members and question == presence.PROBE:
            return m.IntroduceYourself(), 1
        if secured.own.public not in self.invitations:
            raise KeyRefused
        assert isinstance(question, m.Enrol)
        if self.leave:
            return m.Leave(self.leave), 1
        self.invitations.discard(secured.own.public)
        self.members.add(question.public_key)
        if self.loses_answer:
            self.loses_answer = False
            raise NoAnswer
        return m.Enrolled("rack3", (BROKER.public, NEXT)), 1


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    monkeypatch.setattr(broker_dialogue, "ask", made.ask)
    monkeypatch.setattr(joining, "RETRY_S", 0.0)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "node-credentials.json"


def entry(path: Path, invitation: Invitation | None = None, said: list[str] | None = None) -> Joining:
    return Joining("node", "host", path, invitation, (said if said is not None else []).append)


def way(of: Joining, address: str | None = None, *, insecure: bool = False) -> Way:
    return of.way(address, lambda: IPC, insecure=insecure)


def test_a_newcomer_joins_and_the_second_start_needs_nothing(broker: Broker, path: Path) -> None:
    said: list[str] = []
    assert way(entry(path, INVITATION, said)) == Way(TCP, str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    known = member_credentials.read(path)
    assert known is not None
    assert (known.name, known.is_confirmed, known.broker_keys) == ("rack3", True, (BROKER.public, NEXT))
    assert {sockets.pair_of(known.secret_key).public} == broker.members
    assert "Joined as rack3" in said[0]
    broker.asked.clear()
    assert way(entry(path)) == Way(TCP, str(path))
    assert broker.asked == []


def test_no_secret_leaves_the_host(broker: Broker, path: Path) -> None:
    way(entry(path, INVITATION))
    known = member_credentials.read(path)
    assert known is not None
    for secret in (known.secret_key, CARD.secret):
        assert secret not in repr(broker.asked)


def test_with_a_key_that_is_good_an_invitation_is_not_used(broker: Broker, path: Path) -> None:
    way(entry(path, INVITATION))
    broker.invitations.add(CARD.public)
    before = path.read_bytes()
    way(entry(path, INVITATION))
    assert CARD.public in broker.invitations
    assert path.read_bytes() == before


def test_a_key_that_is_refused_is_replaced_where_an_invitation_is_at_hand(broker: Broker, path: Path) -> None:
    way(entry(path, INVITATION))
    broker.members.clear()
    broker.invitations.add(CARD.public)
    before, said = path.read_bytes(), list[str]()
    assert way(entry(path, INVITATION, said)) == Way(TCP, str(path))
    assert path.read_bytes() != before
    assert "joining anew" in said[0]


def test_a_part_whose_key_is_refused_while_it_runs_joins_anew(broker: Broker, path: Path) -> None:
    of = entry(path, INVITATION)
    way(of)
    before = path.read_bytes()
    broker.invitations.add(CARD.public)
    of.enrol_anew()
    assert path.read_bytes() != before
    assert len(broker.members) == 2


def test_an_answer_that_was_lost_costs_nothing_at_the_next_start(broker: Broker, path: Path) -> None:
    broker.loses_answer = True
    with pytest.raises(Fault, match="it has been used"):
        way(entry(path, INVITATION))
    assert way(entry(path, INVITATION)) == Way(TCP, str(path))
    known = member_credentials.read(path)
    assert known is not None
    assert known.is_confirmed


def test_a_start_without_the_invitation_after_one_that_broke_off_says_what_to_do(
    broker: Broker, path: Path
) -> None:
    broker.failures = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        way(entry(path, INVITATION))
    said: list[str] = []
    with pytest.raises(Fault, match=r"has begun to join, and the broker doesn't know the key .* --join"):
        way(entry(path, said=said))
    assert said == []
    broker.failures = [NoAnswer()]
    assert way(entry(path)) == Way(TCP, str(path)), "the part itself waits for the broker"


def test_a_broker_that_is_on_its_way_is_waited_for(broker: Broker, path: Path) -> None:
    broker.failures = [NoAnswer(), NoAnswer()]
    said: list[str] = []
    way(entry(path, INVITATION, said))
    assert ["trying again" in line for line in said] == [True, False]


def test_each_address_of_an_invitation_is_tried(broker: Broker, path: Path) -> None:
    broker.failures = [NoAnswer()]
    both = Invitation((OTHER_TCP, TCP), INVITATION.broker_key, INVITATION.secret_key, "node")
    way(entry(path, both))
    assert [address for address, _ in broker.asked] == [OTHER_TCP, TCP]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            KeyRefused(),
            r"used, has expired or was withdrawn; ask for a new one with `torchrelay nodes invite`",
        ),
        (OtherBroker(), "is not the broker that made this invitation"),
    ],
)
def test_whoever_is_refused_is_told_why_and_what_to_do(
    broker: Broker, path: Path, failure: Exception, words: str
) -> None:
    broker.failures = [failure]
    with pytest.raises(Fault, match=words):
        way(entry(path, INVITATION))


def test_an_expired_invitation_is_said_to_be_by_its_date(broker: Broker, path: Path) -> None:
    broker.failures = [KeyRefused()]
    old = Invitation((TCP,), INVITATION.broker_key, INVITATION.secret_key, "node", "", 1_000_000_000_000)
    with pytest.raises(Fault, match=r"has expired \(2001-09-09"):
        way(entry(path, old))


def test_what_the_broker_says_no_to_is_passed_on(broker: Broker, path: Path) -> None:
    broker.leave = "There are 4096 members: forget some"
    with pytest.raises(Fault, match="4096 members"):
        way(entry(path, INVITATION))


@pytest.mark.parametrize("address", [IPC, TCP])
def test_where_no_key_is_asked_for_none_is_used(broker: Broker, path: Path, address: str) -> None:
    assert way(entry(path), address, insecure=address == TCP) == Way(address)
    with pytest.raises(Fault, match="no key"):
        way(entry(path, INVITATION), address, insecure=address == TCP)
    assert not path.exists()


def test_without_anything_it_is_this_users_own_socket(broker: Broker, path: Path) -> None:
    assert way(entry(path)) == Way(IPC)


def test_a_broker_that_asks_for_keys_and_no_invitation_is_a_fault_that_says_what_to_do(path: Path) -> None:
    with pytest.raises(Fault, match=r"asks for a key.*torchrelay nodes invite.*torchrelay worker --join"):
        way(entry(path), TCP)


def test_an_address_that_is_said_counts_before_that_of_the_invitation(broker: Broker, path: Path) -> None:
    assert way(entry(path, INVITATION), OTHER_TCP) == Way(OTHER_TCP, str(path))
    assert way(entry(path), OTHER_TCP) == Way(OTHER_TCP, str(path))


def test_an_invitation_for_gateways_lets_no_node_in(broker: Broker, path: Path) -> None:
    wrong = Invitation((TCP,), INVITATION.broker_key, INVITATION.secret_key, "gateway")
    with pytest.raises(Fault, match="torchrelay gateway --join"):
        way(entry(path, wrong))
    assert broker.asked == []


def test_credentials_that_are_none_are_said_to_be_and_stay(broker: Broker, path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{}")
    with pytest.raises(Fault, match="holds no credentials"):
        way(entry(path, INVITATION))
    assert path.read_text() == "{}"


TEXT = INVITATION.to_text()


@pytest.mark.parametrize("source", ["argument", "file", "stdin", "environment"])
def test_an_invitation_comes_by_any_of_four_ways(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "invitation"
    file.write_text(f"{TEXT}\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(TEXT))
    read: dict[str, Callable[[], Invitation | None]] = {
        "argument": lambda: joining.read_invitation(TEXT, None, {VARIABLE: "another"}),
        "file": lambda: joining.read_invitation(None, str(file), {}),
        "stdin": lambda: joining.read_invitation(None, "-", {}),
        "environment": lambda: joining.read_invitation(None, None, {VARIABLE: TEXT}),
    }
    assert read[source]() == INVITATION


@pytest.mark.parametrize(
    ("join", "join_file", "words"),
    [
        (TEXT, "file", "one too many"),
        ("torchrelay-join-1.abc", None, "--join holds no invitation"),
        (None, "/nowhere/file", "can't be read"),
    ],
)
def test_what_is_no_invitation_is_said_to_be(join: str | None, join_file: str | None, words: str) -> None:
    with pytest.raises(Fault, match=words):
        joining.read_invitation(join, join_file, {})


def test_an_invitation_of_the_environment_is_not_handed_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, TEXT)
    made = Joining.of_command("node", None, None, str(path), dict(os.environ), "host")
    assert made.invitation == INVITATION
    assert VARIABLE not in os.environ


def test_credentials_lie_in_the_users_state(tmp_path: Path) -> None:
    by_xdg = joining.default_file("node", {"XDG_STATE_HOME": str(tmp_path)})
    assert by_xdg == tmp_path / "torchrelay" / "node-credentials.json"
    by_home = joining.default_file("gateway", {"HOME": str(tmp_path)})
    assert by_home == tmp_path / ".local" / "state" / "torchrelay" / "gateway-credentials.json"


def test_what_was_kept_is_as_the_parts_read_it(broker: Broker, path: Path) -> None:
    way(entry(path, INVITATION))
    known = member_credentials.read(path)
    assert isinstance(known, Credentials)
    assert (known.addresses, known.role) == ((TCP,), "node")
