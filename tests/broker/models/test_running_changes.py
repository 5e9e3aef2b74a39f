"""The bound of changes that are being made."""

from tests.broker.rig import GATEWAY, Rig
from torchrelay.broker.models import running_changes
from torchrelay.shared.wire import messages as m


def test_changes_beyond_their_bound_are_refused() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.register(initial_workers=0)
    scalings = [
        rig.event(GATEWAY, m.ScaleWorkers(number, "m", None, 0, 0, synchronous=False))
        for number in range(2, running_changes.CHANGES_LIMIT + 3)
    ]
    rig.feed(*scalings)
    assert rig.only(GATEWAY, m.AskRefused).error == "ServiceUnavailable"
    assert len(rig.take(GATEWAY, m.WorkersScaled)) == running_changes.CHANGES_LIMIT
