"""The version that answers when none is named."""

from tests.broker.models.test_changes import joined, refusal
from tests.broker.rig import GATEWAY
from torchrelay.shared.wire import messages as m


def test_the_first_version_stays_the_default_until_it_is_set() -> None:
    rig = joined()
    rig.register(version="1.0", initial_workers=0)
    rig.register(version="2.0", initial_workers=0)
    assert rig.core.catalog.resolve("m", None).version == "1.0"
    rig.say(GATEWAY, m.SetDefault(3, "m", "2.0"))
    rig.only(GATEWAY, m.DefaultSet)
    assert rig.core.catalog.resolve("m", None).version == "2.0"
    rig.say(GATEWAY, m.SetDefault(4, "m", "9"))
    assert refusal(rig) == ("ModelVersionNotFound", "Model version 9 does not exist for model m")
    rig.say(GATEWAY, m.SetDefault(4, "no", "9"))
    assert refusal(rig) == ("ModelNotFound", "Model not found: no")


def test_the_default_version_can_only_go_last() -> None:
    rig = joined()
    rig.register(version="1.0", initial_workers=0)
    rig.register(version="2.0", initial_workers=0)
    rig.say(GATEWAY, m.UnregisterModel(2, "m", "1.0"))
    assert refusal(rig) == ("InvalidModelVersion", "Cannot remove default version for model m")
    rig.say(GATEWAY, m.UnregisterModel(3, "m", "2.0"))
    rig.say(GATEWAY, m.UnregisterModel(4, "m", None))
    assert len(rig.take(GATEWAY, m.ModelUnregistered)) == 2
