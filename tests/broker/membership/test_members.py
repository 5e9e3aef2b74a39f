"""Whom a key lets in: invitations, members, workers; the tables and the registry always agree."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from torchrelay.broker.membership import members as membership
from torchrelay.broker.membership.members import EPHEMERAL_SILENCE_S, Identity, Members
from torchrelay.broker.models.records import MemberChange, Snapshot
from torchrelay.broker.storage.registry import Registry
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m

NODE, OTHER, GATEWAY, CARD, WORKER = (letter * 64 for letter in "abcde")


def key(number: int) -> str:
    return f"{number:064x}"


def members(snapshot: Snapshot | None = None) -> Members:
    return Members(snapshot or Snapshot(), lambda at: int(at * 1000), now=0.0)


def invited(here: Members, ask: m.Invite, public_key: str = CARD, now: float = 0.0) -> None:
    here.apply(here.invite(ask, public_key, now), now)


def enrolled(
    here: Members, public_key: str, name: str = "host", card: str = CARD, now: float = 0.0
) -> list[str]:
    return here.apply(here.enrol(card, m.Enrol(m.PROTOCOL_VERSION, public_key, name), now), now)


def node_invitation(**said: object) -> m.Invite:
    return m.Invite(1, "node", **said)  # type: ignore[arg-type]


def test_nobody_is_let_in_by_a_key_that_nobody_knows() -> None:
    assert members().identity(NODE, 0) is None
    assert "unknown here" in members().why_not(NODE, 0)


def test_an_invitation_lets_in_once_and_the_member_stays() -> None:
    here = members()
    invited(here, node_invitation(name="rack3", models="resnet*"))
    assert here.identity(CARD, 0) == Identity("newcomer", "rack3")
    assert enrolled(here, NODE) == []
    assert here.identity(NODE, 1e9) == Identity("node", "rack3", "resnet*")
    assert here.identity(CARD, 0) is None
    assert here.why_not(CARD, 0) == "the invitation for rack3 has been used, by rack3"


def test_an_invitation_expires_and_says_so() -> None:
    here = members()
    invited(here, node_invitation(ttl_s=60))
    assert here.why_not(CARD, 59.9) == ""
    assert here.why_not(CARD, 60) == "the invitation has expired"
    assert here.open_invitations("node", 60) == []


def test_an_invitation_without_a_time_never_expires() -> None:
    here = members()
    invited(here, node_invitation(ttl_s=None))
    assert here.why_not(CARD, 1e9) == ""


def test_one_for_any_number_of_hosts_gives_each_a_name_of_its_own() -> None:
    here = members()
    invited(here, node_invitation(uses=0, ephemeral=True))
    for public_key in (NODE, OTHER):
        assert enrolled(here, public_key) == []
    assert {one.name for one in here.of_role("node")} == {"host", f"host-{OTHER[:8]}"}


@pytest.mark.parametrize("name", ["", " a", "a\n", "a/b", "..", "invitations"])
def test_a_host_whose_name_has_no_place_in_a_path_is_called_by_its_role(name: str) -> None:
    here = members()
    invited(here, node_invitation())
    enrolled(here, NODE, name)
    assert [one.name for one in here.of_role("node")] == ["node"]
    if name:
        with pytest.raises(errors.BadRequest, match="can't be a name"):
            here.invite(node_invitation(name=name), OTHER, 0)


def test_one_for_two_hosts_lets_in_two() -> None:
    here = members()
    invited(here, node_invitation(uses=2))
    assert enrolled(here, NODE) == []
    assert enrolled(here, OTHER) == []
    assert here.why_not(CARD, 0)


def test_a_newcomer_that_missed_the_answer_may_ask_again() -> None:
    here = members()
    invited(here, node_invitation(uses=2))
    enrolled(here, NODE)
    enrolled(here, NODE)
    assert [one.name for one in here.of_role("node")] == ["host"]


def test_an_invitation_for_a_name_that_a_host_has_already_takes_it_over_when_it_is_used() -> None:
    here = members()
    invited(here, node_invitation(name="rack3"))
    enrolled(here, NODE)
    invited(here, node_invitation(name="rack3"), key(7))
    assert here.identity(NODE, 0) is not None
    assert enrolled(here, OTHER, card=key(7)) == [NODE]
    assert here.why_not(NODE, 0) == "rack3 has joined anew with another key"


@pytest.mark.parametrize("taken", [GATEWAY, key(8), WORKER])
def test_a_newcomer_may_not_take_a_key_that_means_somebody_else(taken: str) -> None:
    here = members()
    invited(here, m.Invite(1, "gateway"))
    enrolled(here, GATEWAY)
    invited(here, node_invitation(), key(8))
    invited(here, node_invitation(uses=0), key(9))
    enrolled(here, NODE, card=key(9))
    assert here.add_worker(WORKER, 9000, NODE)
    with pytest.raises(errors.BadRequest, match="something else"):
        enrolled(here, taken, card=key(9))


def test_a_revoked_key_is_never_let_in_again_and_takes_its_workers_along() -> None:
    here = members()
    invited(here, node_invitation())
    enrolled(here, NODE)
    assert here.add_worker(WORKER, 9000, NODE)
    assert here.identity(WORKER, 0) == Identity("worker", "host", worker_id=9000)
    assert here.apply(here.revoke("node", "host", 5), 5) == [NODE, WORKER]
    assert here.identity(WORKER, 5) is None
    assert here.why_not(NODE, 5) == "the node host has been revoked"
    assert [one.name for one in here.revoked("node")] == ["host"]
    invited(here, node_invitation())
    with pytest.raises(errors.BadRequest, match="make another"):
        enrolled(here, NODE)


def test_a_node_can_not_have_anothers_worker_or_member_let_in_as_its_own() -> None:
    here = members()
    invited(here, node_invitation(uses=0))
    enrolled(here, NODE)
    enrolled(here, OTHER)
    assert here.add_worker(WORKER, 9000, NODE)
    assert here.add_worker(WORKER, 9000, NODE), "it says so at each hello"
    assert not here.add_worker(WORKER, 9000, OTHER)
    assert not here.add_worker(OTHER, 9000, NODE)
    assert not here.add_worker(CARD, 9000, NODE)
    here.remove_worker(9000, NODE)
    assert here.identity(WORKER, 0) is None


def test_what_is_forgotten_may_come_as_if_it_had_never_been_here() -> None:
    here = members()
    invited(here, node_invitation(name="rack3"))
    enrolled(here, NODE)
    here.apply(here.revoke("node", "rack3", 0), 0)
    here.apply(here.forget("node", "rack3"), 0)
    assert "unknown here" in here.why_not(NODE, 0)
    assert here.revoked("node") == []
    with pytest.raises(errors.BadRequest, match="No node rack3"):
        here.forget("node", "rack3")


def test_only_an_ephemeral_member_is_forgotten_by_itself_and_only_after_its_silence() -> None:
    here = members()
    invited(here, node_invitation(uses=0, ephemeral=True))
    enrolled(here, NODE)
    invited(here, node_invitation(), key(7))
    enrolled(here, OTHER, card=key(7))
    here.heard(NODE, 100)
    assert here.forgettable(100 + EPHEMERAL_SILENCE_S) is None
    change = here.forgettable(101 + EPHEMERAL_SILENCE_S)
    assert change is not None
    assert here.apply(change, 0) == [NODE]
    assert [one.public_key for one in here.of_role("node")] == [OTHER]


def test_silence_before_the_brokers_start_does_not_count() -> None:
    here = members()
    invited(here, node_invitation(uses=0, ephemeral=True))
    enrolled(here, NODE)
    snapshot = Snapshot(members=tuple(here.of_role("node")))
    later = Members(snapshot, lambda at: int(at * 1000), now=5000.0)
    assert later.forgettable(5000 + EPHEMERAL_SILENCE_S) is None
    assert later.forgettable(5001 + EPHEMERAL_SILENCE_S) is not None
    assert later.seen_at_ms(NODE) is None


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (m.Invite(1, "node", name="a", uses=2), "one use"),
        (m.Invite(1, "node", name="a\n"), "can't be a name"),
        (m.Invite(1, "gateway", models="x*"), "Only nodes"),
    ],
)
def test_an_invitation_that_can_not_be_meant_is_refused(ask: m.Invite, words: str) -> None:
    with pytest.raises(errors.BadRequest, match=words):
        members().invite(ask, CARD, 0)


def test_an_invitation_is_withdrawn_by_the_beginning_of_its_key() -> None:
    here = members()
    invited(here, node_invitation(), "ab" * 32)
    invited(here, node_invitation(), "ac" * 32)
    for ambiguous in ("a", "", "b"):
        with pytest.raises(errors.BadRequest, match="no invitation"):
            here.end_invitation(ambiguous, 0)
    assert here.apply(here.end_invitation("ab", 0), 0) == ["ab" * 32]
    assert here.why_not("ab" * 32, 0) == "the invitation has been withdrawn"


def test_reasons_are_kept_for_the_latest_ended_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "ENDED_KEYS_LIMIT", 2)
    here = members()
    for number in range(3):
        invited(here, node_invitation(), key(number))
        here.apply(here.end_invitation(key(number), 0), 0)
    assert "unknown" in here.why_not(key(0), 0)
    assert "withdrawn" in here.why_not(key(2), 0)


class Agreement(RuleBasedStateMachine):
    """Whatever happens, a broker that is restarted lets in by the same keys, with the same words."""

    cards = Bundle("cards")
    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.registry = Registry(Path(self.folder.name, "registry.sqlite"))
        self.here = members()
        self.now = 0.0
        self.drawn = 0

    def draw(self) -> str:
        self.drawn += 1
        return key(self.drawn)

    def make(self, change: MemberChange) -> None:
        self.registry.apply(change)
        self.here.apply(change, self.now)

    @rule(
        target=cards,
        role=st.sampled_from(["node", "gateway"]),
        name=st.sampled_from(["", "", "rack1", "rack2"]),
        ttl_s=st.sampled_from([None, 10, 1000]),
        uses=st.integers(0, 2),
        ephemeral=st.booleans(),
    )
    def invite(self, role: str, name: str, ttl_s: int | None, uses: int, ephemeral: bool) -> str:
        drawn = self.draw()
        ask = m.Invite(1, role, name, "", ttl_s, 1 if name else uses, ephemeral)  # type: ignore[arg-type]
        self.make(self.here.invite(ask, drawn, self.now))
        return drawn

    @rule(target=keys, card=cards, is_again=st.booleans(), former=st.none() | keys)
    def enrol(self, card: str, is_again: bool, former: str | None) -> object:
        own = former if is_again and former else self.draw()
        if self.here.why_not(card, self.now):
            return multiple()
        try:
            change = self.here.enrol(card, m.Enrol(4, own, "host"), self.now)
        except errors.BadRequest:
            return multiple()
        self.make(change)
        return own

    @rule(card=consumes(cards))
    def withdraw(self, card: str) -> None:
        if card in self.here.invitations:
            self.make(self.here.end_invitation(card, self.now))

    @rule(own=keys, is_revoked=st.booleans())
    def end(self, own: str, is_revoked: bool) -> None:
        if member := self.here.members.get(own):
            make = (
                self.here.revoke(member.role, member.name, self.now)
                if is_revoked
                else self.here.forget(member.role, member.name)
            )
            self.make(make)

    @rule(seconds=st.sampled_from([1.0, 100.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        if change := self.here.forgettable(self.now):
            self.make(change)

    @invariant()
    def a_restarted_broker_says_the_same(self) -> None:
        restarted = Members(self.registry.load(), lambda at: int(at * 1000), now=self.now)
        for known in map(key, range(1, self.drawn + 1)):
            assert restarted.identity(known, self.now) == self.here.identity(known, self.now)
            assert restarted.why_not(known, self.now) == self.here.why_not(known, self.now)

    @invariant()
    def no_two_members_of_a_role_have_one_name(self) -> None:
        names = [(one.role, one.name) for one in self.here.members.values()]
        assert len(names) == len(set(names))

    @invariant()
    def a_key_means_one_thing(self) -> None:
        assert not self.here.members.keys() & self.here.invitations.keys()
        assert all(one.uses_left is None or one.uses_left > 0 for one in self.here.invitations.values())

    def teardown(self) -> None:
        self.registry.close()
        self.folder.cleanup()


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(max_examples=20, stateful_step_count=20)
