"""What each role may say: every message of the wire, from every role."""

from typing import get_args

import pytest

from torchrelay.broker.membership.members import Role
from torchrelay.broker.membership.roles import MANAGING, MAY_SAY, may_say
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

#: Written once more, by hand: whoever adds a message decides who may say it.
GATEWAYS: set[type[m.Message]] = {
    m.HelloGateway, m.GatewayBeat, m.Announced, m.Submit, m.Cancel, m.Missed, m.DescribeModel, m.ListModels,
    m.ReadFleet, m.ReadMetrics, m.ReadHealth, m.ReadReadiness, m.ReadMembers, m.OfferMemory, m.ReadsMemory,
    m.DescribeWorkflow, m.ListWorkflows, m.Bye,
}  # fmt: skip
MANAGERS: set[type[m.Message]] = {
    m.RegisterModel, m.UnregisterModel, m.ScaleWorkers, m.SetDefault, m.RenewKey, m.Invite, m.EndInvitation,
    m.ChangeMember, m.RotateBrokerKey, m.RegisterWorkflow, m.UnregisterWorkflow,
}  # fmt: skip
NODES: set[type[m.Message]] = {
    m.HelloNode, m.NodeBeat, m.NodeMeasured, m.WorkerProgressed, m.WorkerExited, m.WorkerKey, m.FetchArchive,
    m.NodeLeaves, m.Bye,
}  # fmt: skip
WORKERS: set[type[m.Message]] = {
    m.HelloWorker,
    m.WorkerBeat,
    m.Streamed,
    m.Completed,
    m.CompletedInRow,
    m.Measured,
    m.OfferMemory,
    m.ReadsMemory,
    m.Bye,
}
BY_ROLE: dict[Role, set[type[m.Message]]] = {
    "newcomer": {m.Enrol}, "gateway": GATEWAYS, "node": NODES, "worker": WORKERS,
}  # fmt: skip


@pytest.mark.parametrize("role", get_args(Role))
@pytest.mark.parametrize("message", codec.KINDS.values(), ids=lambda cls: cls.__name__)
def test_a_role_may_say_what_is_its_own_and_nothing_else(role: Role, message: type[m.Message]) -> None:
    assert may_say(role, message, may_manage=False) == (message in BY_ROLE[role])
    is_managers = role == "gateway" and message in MANAGERS
    assert may_say(role, message, may_manage=True) == (message in BY_ROLE[role] or is_managers)


def test_what_manages_is_for_gateways_alone() -> None:
    assert MANAGING == MANAGERS
    for role in ("newcomer", "node", "worker"):
        assert not MANAGING & MAY_SAY[role]
