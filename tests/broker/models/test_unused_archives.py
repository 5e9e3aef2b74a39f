"""Archives are deleted once nothing may need them."""

from tests.broker.core.test_rare_orders import SlowRig
from tests.broker.rig import GATEWAY
from torchrelay.broker.core.effects import DropArchive, Prepare
from torchrelay.broker.core.events import ArchivePrepared
from torchrelay.broker.models.origins import parse
from torchrelay.broker.models.records import Prepared
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m


def test_what_a_refused_registration_downloaded_is_deleted() -> None:
    rig = SlowRig()
    rig.join_gateway()
    rig.register(initial_workers=0)
    rig.archives["http://x/other.mar"] = Prepared("sha-other", 10, "m", "1.0", "h", "python", "f")
    rig.say(GATEWAY, m.RegisterModel(5, "http://x/other.mar"))
    assert rig.only(GATEWAY, m.AskRefused).error == "Conflict"
    assert DropArchive("sha-other", parse("http://x/other.mar")) in rig.effects


def test_an_archive_is_deleted_once_no_registration_may_need_it() -> None:
    rig = SlowRig()
    rig.join_gateway()
    rig.archives["http://x/m.mar"] = Prepared("sha-m", 10, "m", "1.0", "h", "python", "f")
    rig.say(GATEWAY, m.RegisterModel(5, "http://x/m.mar", initial_workers=0))
    rig.held = []
    rig.say(GATEWAY, m.RegisterModel(6, "http://slow/other.mar", initial_workers=0))
    (prepare,) = [e for e in rig.effects if isinstance(e, Prepare) and "slow" in e.origin.url]
    rig.held = None
    rig.say(GATEWAY, m.UnregisterModel(7, "m", None))
    assert not any(isinstance(effect, DropArchive) for effect in rig.effects)
    rig.feed(ArchivePrepared(prepare.token, errors.DownloadFailed("x")))
    assert DropArchive("sha-m", parse("http://x/m.mar")) in rig.effects


def test_an_archive_is_deleted_also_if_another_content_has_come_in_under_its_url() -> None:
    rig = SlowRig()
    rig.join_gateway()
    for version in ("1.0", "2.0"):
        rig.archives["m.mar"] = Prepared(f"sha-{version}", 10, "m", version, "h", "python", "f")
        rig.say(GATEWAY, m.RegisterModel(5, "m.mar"))
    rig.say(GATEWAY, m.SetDefault(6, "m", "2.0"))
    rig.say(GATEWAY, m.UnregisterModel(7, "m", "1.0"))
    assert [effect for effect in rig.effects if isinstance(effect, DropArchive)] == [
        DropArchive("sha-1.0", None)
    ]
    rig.say(GATEWAY, m.UnregisterModel(8, "m", "2.0"))
    assert rig.effects.count(DropArchive("sha-2.0", parse("m.mar"))) == 1
