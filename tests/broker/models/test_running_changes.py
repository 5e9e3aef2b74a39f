"""Changes that are being made: printed, bounded, and the archives that they leave unused."""

import pytest

from tests.broker.core.test_keyring import proof
from tests.broker.core.test_keyring import rig as rig_with_keys
from tests.broker.core.test_rare_orders import SlowRig
from tests.broker.rig import GATEWAY, Rig, settings
from torchrelay.broker.core.effects import DropArchive, Effect, KeepKeys, Prepare, Store, WriteSnapshot
from torchrelay.broker.core.events import ArchivePrepared, Stored
from torchrelay.broker.models import running_changes
from torchrelay.broker.models.origins import parse
from torchrelay.broker.models.records import Prepared
from torchrelay.shared import errors
from torchrelay.shared.settings import LoadAtStart, StartupModel
from torchrelay.shared.wire import messages as m

PREPARED = Prepared("cd" * 32, 0, "new", "1.0", "", "", "")


def one(effects: list[Effect], kind: type[Prepare | Store | KeepKeys | WriteSnapshot]) -> int:
    """Return the token of the only effect of a kind."""
    (effect,) = (effect for effect in effects if isinstance(effect, kind))
    return effect.token


def begun(rig: Rig, ask: m.Change) -> list[Effect]:
    """Have a change begun; what threads would do for it is left undone."""
    return rig.core.handle([rig.event(GATEWAY, ask)], now=rig.now)


def ready() -> Rig:
    rig = Rig(settings(snapshot_dir="/nowhere"))
    rig.ready_rig()
    assert printed(rig) == "Management(steps={})"
    return rig


def printed(rig: Rig) -> str:
    return repr(rig.core.management)


@pytest.mark.parametrize(
    ("ask", "steps"),
    [
        (m.ScaleWorkers(7, "m", None, 2, 2, synchronous=True), ["Scaling", "AwaitingWorkers"]),
        (m.ScaleWorkers(7, "m", None, 1, 1, synchronous=False), ["Scaling", "WritingSnapshot"]),
        (m.SetDefault(7, "m", "1.0"), ["SettingDefault", "WritingSnapshot"]),
        (m.UnregisterModel(7, "m", None), ["Removing", "AwaitingExits"]),
    ],
)
def test_each_step_of_a_change_is_printed_with_its_facts(ask: m.Change, steps: list[str]) -> None:
    rig = ready()
    effects = begun(rig, ask)
    for step in steps:
        assert f": {step}(caller={(GATEWAY, 7)}" in printed(rig).replace("kind='snapshot', ", "")
        if step != steps[-1]:
            effects = rig.core.handle([Stored(one(effects, Store), None)], now=rig.now)


def test_a_registration_is_printed_from_its_archive_to_its_roll_back() -> None:
    rig = ready()
    effects = begun(rig, m.RegisterModel(7, "new.mar", initial_workers=1, synchronous=True))
    assert "Preparing(caller=(b'g-1', 7), ask=RegisterModel(ask=7, url='new.mar'" in printed(rig)
    effects = rig.core.handle([ArchivePrepared(one(effects, Prepare), PREPARED)], now=rig.now)
    assert "Registering(begun=Preparing(" in printed(rig)
    rig.core.handle([Stored(one(effects, Store), None)], now=rig.now)
    assert "AwaitingWorkers(caller=(b'g-1', 7), key=('new', '1.0')" in printed(rig)
    (worker,) = rig.core.fleet.of_version(("new", "1.0"))
    gone = m.WorkerExited(worker.worker_id, 1, None, "it broke", False, ())
    rig.core.handle([rig.event(worker.node or b"", gone)], now=rig.now)
    assert "RollingBack(caller=(b'g-1', 7)" in printed(rig)
    assert "WorkerStartFailed(" in printed(rig)


def test_a_default_of_a_snapshot_is_printed_while_it_is_stored() -> None:
    rig = ready()
    rig.core.management.load_at_start(StartupModel("new", "1.0", "new.mar", is_default=True))
    rig.core.management.load_at_start(LoadAtStart("other.mar"))
    first = next(iter(rig.core.management.steps))
    effects = rig.core.handle([ArchivePrepared(first, PREPARED)], now=rig.now)
    rig.core.handle([Stored(one(effects, Store), None)], now=rig.now)
    assert "RestoringDefault(begun=Preparing(caller=None" in printed(rig)
    assert "Preparing(caller=None, ask=RegisterModel(ask=0, url='other.mar'" in printed(rig)


def test_keys_that_are_being_stored_are_not_printed() -> None:
    rig = rig_with_keys()
    rig.join_gateway()
    shown = proof(rig)
    for number in (7, 8):
        effects = begun(rig, m.RenewKey(number, "inference", shown))
        if number == 7:
            (kept,) = (effect for effect in effects if isinstance(effect, KeepKeys))
    assert "Renewing(caller=(b'g-1', 7)" in printed(rig)
    assert "AwaitingRenewal(caller=(b'g-1', 8)" in printed(rig)
    for key in kept.made.newest.values():
        assert key.text not in printed(rig)


def test_names_of_nodes_are_printed_while_they_are_stored() -> None:
    rig = Rig()
    rig.core.handle([rig.event(b"n-9", m.HelloNode(m.PROTOCOL_VERSION, "far", (), 1, ()))], now=rig.now)
    for _ in range(10):  # until it looks after its peers again
        rig.now += rig.settings.beat_interval_s / 10
        rig.core.handle([], now=rig.now)
    assert "RememberingNodes(names=" in printed(rig)


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
