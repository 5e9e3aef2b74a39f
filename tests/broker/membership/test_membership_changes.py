"""Joining, revoking, draining and rotating, through the whole core: messages in, messages and effects out."""

from collections.abc import Callable

import pytest

from tests.broker.rig import GATEWAY, Rig, key_pair, settings
from torchrelay.broker.membership import membership_changes
from torchrelay.broker.membership.members import EPHEMERAL_SILENCE_S
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.wire import curve, invitations
from torchrelay.shared.wire import messages as m

TCP = "tcp://10.0.0.1:7700"
HOST, OTHER, WORKER = (key_pair(number).public for number in (1001, 1002, 1003))


def peer(public_key: str, session: bytes = b"s") -> bytes:
    return curve.secured_peer(public_key, session)


@pytest.fixture
def rig() -> Rig:
    made = Rig(settings(addresses=("ipc:///run/broker.sock", TCP)))
    made.join_gateway()
    return made


def invite(rig: Rig, ask: m.Invite | None = None) -> invitations.Invitation:
    rig.say(GATEWAY, ask or m.Invite(7, "node"))
    return invitations.parse(rig.only(GATEWAY, m.Invited).text)


def card_of(rig: Rig) -> str:
    """Return the public key of the newest invitation."""
    return [*rig.core.members.invitations][-1]


def enrol(rig: Rig, public_key: str = HOST, name: str = "host", card: str = "") -> None:
    rig.say(peer(card or card_of(rig)), m.Enrol(m.PROTOCOL_VERSION, public_key, name))


def joined(rig: Rig, public_key: str = HOST, ask: m.Invite | None = None) -> str:
    """Have a host join by an invitation; return how it is called."""
    invite(rig, ask)
    card = card_of(rig)
    enrol(rig, public_key, card=card)
    return rig.only(peer(card), m.Enrolled).name


def hello(name: str = "whatever", workers: tuple[m.HeldWorker, ...] = ()) -> m.HelloNode:
    return m.HelloNode(m.PROTOCOL_VERSION, name, (m.Device("cpu", "cpu"),), 8, workers)


def test_an_invitation_says_all_that_a_host_needs_to_join(rig: Rig) -> None:
    invitation = invite(rig, m.Invite(7, "node", "rack3", ttl_s=60))
    assert invitation.addresses == (TCP,)
    assert invitation.broker_key.hex() == key_pair(0).public
    assert invitation.secret_key.hex() == key_pair(1).secret
    assert (invitation.role, invitation.name) == ("node", "rack3")
    assert invitation.expires_at_ms is not None
    assert key_pair(1).secret not in repr(rig.registry.load())
    assert not any(key_pair(1).secret in repr(report) for report in rig.reports)


def test_a_newcomer_joins_and_comes_back_under_its_name_also_after_a_restart(rig: Rig) -> None:
    assert joined(rig, ask=m.Invite(7, "node", "rack3")) == "rack3"
    for _ in range(2):
        rig.say(peer(HOST), hello("a name of its own"))
        rig.only(peer(HOST), m.Welcome)
        assert rig.core.fleet.nodes[peer(HOST)].name == "rack3"
        rig.restart()


def test_an_invitation_is_used_up_when_the_newcomer_hears_that_it_is_in(rig: Rig) -> None:
    joined(rig)
    card = key_pair(1).public
    assert "has been used, by host" in rig.core.why_not_admitted(card)
    rig.restart()
    assert "has been used, by host" in rig.core.why_not_admitted(card)


def test_two_that_come_at_once_with_one_invitation_are_not_both_let_in(rig: Rig) -> None:
    invite(rig)
    card = peer(card_of(rig), b"1"), peer(card_of(rig), b"2")
    rig.feed(*(
        rig.event(one, m.Enrol(m.PROTOCOL_VERSION, public_key, "host"))
        for one, public_key in zip(card, (HOST, OTHER), strict=True)
    ))  # fmt: skip
    rig.only(card[0], m.Enrolled)
    assert "has been used" in rig.only(card[1], m.Leave).reason
    assert [one.public_key for one in rig.core.members.of_role("node")] == [HOST]


def test_what_the_registry_can_not_keep_lets_nobody_in(rig: Rig) -> None:
    invite(rig)
    rig.store_error = StoreFailed("The registry could not be written", "disk full")
    enrol(rig)
    assert "disk full" in rig.only(peer(card_of(rig)), m.Leave).reason
    assert rig.core.members.of_role("node") == []
    rig.store_error = None
    card = card_of(rig)
    enrol(rig)
    rig.only(peer(card), m.Enrolled)


@pytest.mark.parametrize(
    "message",
    [
        hello(),
        m.HelloGateway(m.PROTOCOL_VERSION, "g", 1),
        m.ReadFleet(1),
        m.FetchArchive("ab", 0, 1),
        m.Bye(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_newcomer_learns_nothing_and_may_do_nothing_but_join(rig: Rig, message: m.Message) -> None:
    invite(rig)
    newcomer = peer(card_of(rig))
    rig.say(newcomer, message)
    said = [type(one) for one, _ in rig.inbox[newcomer]]
    assert set(said) <= {m.Misunderstood, m.IntroduceYourself}
    assert newcomer not in rig.core.fleet.nodes
    assert newcomer not in rig.core.gateways


def test_a_key_that_has_ended_meanwhile_is_cut_off_without_a_word(rig: Rig) -> None:
    joined(rig)
    rig.say(GATEWAY, m.ChangeMember(8, "node", "host", "revoke"))
    rig.cuts.clear()
    for message in (hello(), m.NodeBeat(()), m.Enrol(m.PROTOCOL_VERSION, OTHER, "x")):
        rig.say(peer(HOST), message)
        assert rig.inbox[peer(HOST)] == []
    assert set(rig.cuts) == {HOST}


@pytest.mark.parametrize(("role", "said"), [("gateway", hello()), ("node", m.HelloGateway(4, "g", 1))])
def test_a_member_can_not_be_what_it_was_not_invited_as(rig: Rig, role: str, said: m.Message) -> None:
    joined(rig, ask=m.Invite(7, role))  # type: ignore[arg-type]
    rig.say(peer(HOST), said)
    assert f"is not for a {role} to say" in rig.only(peer(HOST), m.Misunderstood).reason
    assert not rig.take(peer(HOST), m.Welcome)


def with_worker(rig: Rig) -> int:
    """Have a host join and start a worker, which comes by a key of its own; return its id."""
    joined(rig)
    rig.say(peer(HOST), hello())
    rig.register()
    start = rig.only(peer(HOST), m.StartWorker)
    rig.say(peer(HOST), m.WorkerKey(start.worker_id, WORKER))
    rig.say(peer(WORKER), ready(start))
    rig.only(peer(WORKER), m.Welcome)
    return start.worker_id


def ready(start: m.StartWorker, worker_id: int | None = None) -> m.HelloWorker:
    return m.HelloWorker(
        m.PROTOCOL_VERSION, start.worker_id if worker_id is None else worker_id, "x", start.model,
        start.version, start.archive, "cpu", 1, start.claim,
    )  # fmt: skip


def submit(rig: Rig) -> m.Assign:
    rig.say(GATEWAY, m.Submit((m.SubmitItem(1, "m", None, False, b""),)))
    return rig.only(peer(WORKER), m.Assign)


def test_a_revoked_node_is_gone_with_its_workers_and_its_work_goes_elsewhere(rig: Rig) -> None:
    with_worker(rig)
    submit(rig)
    other = rig.join_node(b"n-2")
    rig.say(GATEWAY, m.ChangeMember(8, "node", "host", "revoke"))
    rig.only(GATEWAY, m.MemberChanged)
    assert peer(HOST) not in rig.core.fleet.nodes
    assert set(rig.cuts) == {HOST, WORKER}
    (elsewhere,) = rig.start_workers(other)
    assert rig.attempt(rig.only(elsewhere, m.Assign)) == 2
    for key in (HOST, WORKER):
        assert rig.core.why_not_admitted(key)


def test_a_worker_is_the_one_whose_key_its_node_has_told(rig: Rig) -> None:
    number = with_worker(rig)
    rig.register("n")
    start = rig.only(peer(HOST), m.StartWorker)
    rig.say(peer(WORKER, b"again"), ready(start))
    assert (
        f"worker {number} says that it is {start.worker_id}"
        in rig.only(peer(WORKER, b"again"), m.Misunderstood).reason
    )


def test_a_worker_comes_back_after_a_restart_since_its_node_vouches_for_it(rig: Rig) -> None:
    joined(rig)
    rig.say(peer(HOST), hello())
    rig.register()
    start = rig.only(peer(HOST), m.StartWorker)
    rig.restart()
    assert rig.core.why_not_admitted(WORKER)
    held = m.HeldWorker(start.worker_id, "m", "1.0", start.archive, "cpu", 1, start.claim, WORKER)
    rig.say(peer(HOST), hello(workers=(held,)))
    assert rig.core.why_not_admitted(WORKER) == ""
    rig.say(peer(WORKER), ready(start))
    rig.only(peer(WORKER), m.Welcome)


def test_a_node_can_vouch_for_no_worker_that_it_was_not_told_to_start(rig: Rig) -> None:
    number = with_worker(rig)
    joined(rig, OTHER, m.Invite(9, "node", "other"))
    held = m.HeldWorker(number, "m", "1.0", "sha-m-1.0.mar", "cpu", 1, "made up", key_pair(2000).public)
    rig.say(peer(OTHER), hello(workers=(held,)))
    rig.say(peer(OTHER), m.WorkerKey(number, key_pair(2001).public))
    assert "wasn't told to start" in rig.only(peer(OTHER), m.Misunderstood).reason
    for key in (key_pair(2000).public, key_pair(2001).public):
        assert rig.core.why_not_admitted(key)


def test_a_workers_key_ends_with_its_process(rig: Rig) -> None:
    number = with_worker(rig)
    rig.say(peer(HOST), m.WorkerExited(number, 1, None, "why", False, ()))
    assert rig.core.why_not_admitted(WORKER)


def test_a_node_is_given_only_archives_of_what_it_was_told_to_start(rig: Rig) -> None:
    with_worker(rig)
    joined(rig, OTHER, m.Invite(9, "node", "other"))
    rig.say(peer(OTHER), hello())
    fetch = m.FetchArchive("sha-m-1.0.mar", 0, 10)
    rig.say(peer(OTHER), fetch)
    rig.only(peer(OTHER), m.ArchiveMissing)
    rig.say(peer(HOST), fetch)
    rig.only(peer(HOST), m.ArchiveChunk)


CHANGES: tuple[Callable[[], m.Change], ...] = (
    lambda: m.RegisterModel(5, "m.mar"),
    lambda: m.UnregisterModel(5, "m", None),
    lambda: m.ScaleWorkers(5, "m", None, 1, 1, False),
    lambda: m.SetDefault(5, "m", "1.0"),
    lambda: m.RenewKey(5, "inference"),
    lambda: m.Invite(5, "node"),
    lambda: m.EndInvitation(5, "ab"),
    lambda: m.ChangeMember(5, "node", "host", "revoke"),
    lambda: m.RotateBrokerKey(5),
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_gateway_that_may_not_manage_changes_nothing(rig: Rig, change: Callable[[], m.Change]) -> None:
    joined(rig, ask=m.Invite(7, "gateway", may_manage=False))
    gateway = peer(HOST)
    rig.say(gateway, m.HelloGateway(m.PROTOCOL_VERSION, "g", 1))
    before = rig.registry.load()
    rig.say(gateway, change())
    assert rig.only(gateway, m.AskRefused).error == "MethodNotAllowed"
    rig.say(gateway, m.ReadFleet(6))
    rig.only(gateway, m.FleetRead)
    assert rig.registry.load() == before


def test_changes_need_a_proof_where_callers_need_keys() -> None:
    rig = Rig(settings(addresses=(TCP,), token_authorization=True, key_file="/nowhere/key_file.json"))
    rig.join_gateway()
    rig.say(GATEWAY, m.Invite(7, "node"))
    assert rig.only(GATEWAY, m.AskRefused).error == "InvalidKey"


@pytest.mark.parametrize("changes", [{}, {"addresses": (TCP,), "insecure": True}])
def test_without_keys_on_tcp_nobody_can_be_invited(changes: dict[str, object]) -> None:
    rig = Rig(settings(**{"addresses": ("ipc:///run/broker.sock",), **changes}))
    rig.join_gateway()
    for ask in (m.Invite(7, "node"), m.RotateBrokerKey(7)):
        rig.say(GATEWAY, ask)
        assert "--address tcp://" in rig.only(GATEWAY, m.AskRefused).message


def test_a_drain_and_its_end_are_durable(rig: Rig) -> None:
    rig.join_node(b"n-1")
    for change, expected in (("drain", {"n-1"}), ("drain", {"n-1"}), ("resume", set())):
        rig.say(GATEWAY, m.ChangeMember(8, "node", "n-1", change))  # type: ignore[arg-type]
        rig.only(GATEWAY, m.MemberChanged)
        assert rig.core.members.draining == expected
        assert set(rig.registry.load().draining) == expected
    for role, name, words in (("gateway", "g", "Only nodes"), ("node", "n-9", "There is no node n-9")):
        rig.say(GATEWAY, m.ChangeMember(8, role, name, "drain"))  # type: ignore[arg-type]
        assert words in rig.only(GATEWAY, m.AskRefused).message


def test_a_node_that_is_forgotten_drains_no_more_when_it_joins_again(rig: Rig) -> None:
    joined(rig, ask=m.Invite(7, "node", "rack3"))
    for change in ("drain", "forget"):
        rig.say(GATEWAY, m.ChangeMember(8, "node", "rack3", change))
        rig.only(GATEWAY, m.MemberChanged)
    joined(rig, OTHER, m.Invite(7, "node", "rack3"))
    assert rig.core.members.draining == set()
    assert rig.registry.load().draining == ()


def test_members_and_invitations_are_shown(rig: Rig) -> None:
    joined(rig, ask=m.Invite(7, "node", "rack3", "m*"))
    invite(rig, m.Invite(7, "node", uses=0, ttl_s=None))
    rig.join_node(b"n-1")
    rig.say(GATEWAY, m.ReadMembers(9, "node"))
    read = rig.only(GATEWAY, m.MembersRead)
    assert [(one.name, one.key, one.state) for one in read.members] == [
        ("n-1", "", "here"), ("rack3", curve.shown(HOST), "away"),
    ]  # fmt: skip
    assert [(one.uses_left, one.expires_at_ms) for one in read.invitations] == [(None, None)]
    rig.say(peer(HOST), hello())
    rig.say(GATEWAY, m.ChangeMember(8, "node", "rack3", "drain"))
    rig.say(GATEWAY, m.ReadMembers(10, "node"))
    assert [one.state for one in rig.take(GATEWAY, m.MembersRead)[-1].members] == ["here", "draining"]
    rig.say(GATEWAY, m.ChangeMember(8, "node", "rack3", "revoke"))
    rig.say(GATEWAY, m.ReadMembers(11, "node"))
    assert [one.state for one in rig.take(GATEWAY, m.MembersRead)[-1].members] == ["here", "revoked"]


def test_the_brokers_next_key_is_told_to_every_member_that_is_here_or_comes(rig: Rig) -> None:
    joined(rig)
    rig.say(peer(HOST), hello())
    rig.say(GATEWAY, m.RotateBrokerKey(8))
    following = rig.only(GATEWAY, m.BrokerKeyRotated).public_key
    assert rig.only(peer(HOST), m.BrokerKeys).keys == (key_pair(0).public, following)
    rig.say(GATEWAY, m.RotateBrokerKey(9))
    assert rig.only(GATEWAY, m.BrokerKeyRotated).public_key == following, "before the next start there is one"
    joined(rig, OTHER, m.Invite(7, "node", "other"))
    rig.say(peer(OTHER), hello())
    assert rig.take(peer(OTHER), m.BrokerKeys)
    assert not rig.take(GATEWAY, m.BrokerKeys), "which has none to check"


def test_a_rotation_that_could_not_be_kept_is_none(rig: Rig) -> None:
    rig.store_error = StoreFailed("The broker's keys can't be written")
    rig.say(GATEWAY, m.RotateBrokerKey(8))
    rig.only(GATEWAY, m.AskRefused)
    assert rig.core.membership.broker_keys is not None
    assert rig.core.membership.broker_keys.next is None


def test_an_ephemeral_host_that_stays_away_is_forgotten(rig: Rig) -> None:
    joined(rig, ask=m.Invite(7, "node", uses=0, ephemeral=True))
    rig.say(peer(HOST), hello())
    rig.pass_time(EPHEMERAL_SILENCE_S + 10)
    assert rig.core.members.of_role("node") == []
    assert rig.registry.load().members == ()
    assert HOST in rig.cuts


def test_a_newcomer_of_another_protocol_is_told_which_is_spoken(rig: Rig) -> None:
    invite(rig)
    rig.say(peer(card_of(rig)), m.Enrol(99, HOST, "host"))
    assert "the newcomer 99" in rig.only(peer(card_of(rig)), m.Leave).reason


def test_so_many_changes_may_wait_and_no_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership_changes, "WAITING_LIMIT", 2)
    rig.feed(*(rig.event(GATEWAY, m.Invite(number, "node")) for number in range(10, 15)))
    assert len(rig.take(GATEWAY, m.Invited)) == 3
    assert {one.error for one in rig.take(GATEWAY, m.AskRefused)} == {"ServiceUnavailable"}


def test_a_node_that_was_invited_for_some_models_gets_no_others_and_it_is_said_why(rig: Rig) -> None:
    joined(rig, ask=m.Invite(7, "node", "rack3", "resnet*"))
    rig.say(peer(HOST), hello())
    rig.register("resnet-18")
    assert rig.only(peer(HOST), m.StartWorker).model == "resnet-18"
    rig.register("bert")
    assert not rig.take(peer(HOST), m.StartWorker)
    rig.say(GATEWAY, m.DescribeModel(3, "bert", None))
    (version,) = rig.only(GATEWAY, m.ModelDescribed).versions
    assert "rack3 was invited for models resnet* alone" in version.explanation
    rig.join_node(b"n-1")
    assert rig.only(b"n-1", m.StartWorker).model == "bert"
