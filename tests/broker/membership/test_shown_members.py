"""Members as they are shown: what the core's own tests don't reach."""

from tests.broker.rig import GATEWAY, Rig, settings
from torchrelay.shared.wire import messages as m


def test_gateways_without_a_key_are_shown_and_may_manage() -> None:
    rig = Rig(settings())
    rig.join_gateway()
    rig.say(GATEWAY, m.ReadMembers(1, "gateway"))
    (one,) = rig.only(GATEWAY, m.MembersRead).members
    assert (one.name, one.key, one.state, one.may_manage) == ("gateway", "", "here", True)


def test_processes_of_a_gateway_without_a_key_are_shown_as_one() -> None:
    rig = Rig(settings())
    rig.join_gateway()
    rig.join_gateway(b"another")
    rig.say(GATEWAY, m.ReadMembers(1, "gateway"))
    assert [one.name for one in rig.only(GATEWAY, m.MembersRead).members] == ["gateway"]


def test_the_fleet_tells_which_node_drains() -> None:
    rig = Rig(settings())
    rig.join_gateway()
    rig.join_node(b"n-1")
    rig.join_node(b"n-2")
    rig.say(GATEWAY, m.ChangeMember(1, "node", "n-2", "drain"))
    rig.say(GATEWAY, m.ReadFleet(2))
    nodes = rig.only(GATEWAY, m.FleetRead).nodes
    assert [(node.name, node.is_draining) for node in nodes] == [("n-1", False), ("n-2", True)]


def test_what_a_node_has_to_do_is_shown() -> None:
    rig = Rig(settings())
    rig.join_gateway()
    node = rig.join_node()
    rig.register()
    (worker,) = rig.start_workers(node)
    rig.say(GATEWAY, m.Submit((m.SubmitItem(1, "m", None, False, b""),)))
    rig.only(worker, m.Assign)
    rig.say(GATEWAY, m.ReadMembers(2, "node"))
    (one,) = rig.only(GATEWAY, m.MembersRead).members
    assert (one.workers, one.jobs_running) == (1, 1)
