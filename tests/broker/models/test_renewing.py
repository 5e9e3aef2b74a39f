"""Renewals of access keys: durable, one after the other, and sent to all gateways."""

from tests.broker.core.test_keyring import joined, opens, proof, rig
from tests.broker.rig import GATEWAY
from torchrelay.broker.core.keyring import sent_hash
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.wire import messages as m


def test_renewing_ends_the_key_before_at_once_and_tells_all_gateways_before_the_caller() -> None:
    bench = rig()
    joined(bench)
    joined(bench, b"g-2")
    old = dict(bench.key_file)
    bench.say(GATEWAY, m.RenewKey(7, "inference", proof(bench)))
    assert [type(message) for message, _ in bench.inbox[GATEWAY]] == [m.KeysChanged, m.KeyRenewed]
    keys = bench.only(b"g-2", m.KeysChanged)
    assert opens(keys, "inference") == {sent_hash(bench.key_file["inference"])}
    assert bench.key_file["inference"] != old["inference"]
    assert (bench.key_file["management"], bench.key_file["token"]) == (old["management"], old["token"])


def test_two_renewals_at_once_make_two_keys_of_which_only_the_last_opens() -> None:
    bench = rig()
    joined(bench)
    first, second = (bench.event(GATEWAY, m.RenewKey(number, "inference", proof(bench))) for number in (7, 8))
    bench.feed(first, second)
    assert [reply.ask for reply in bench.take(GATEWAY, m.KeyRenewed)] == [7, 8]
    keys = bench.take(GATEWAY, m.KeysChanged)
    assert len(set.union(*(opens(one, "inference") for one in keys))) == 2
    assert opens(keys[-1], "inference") == {sent_hash(bench.key_file["inference"])}


def test_a_key_that_could_not_be_kept_changes_nothing() -> None:
    bench = rig()
    joined(bench)
    old = dict(bench.key_file)
    bench.store_error = StoreFailed("The key file can't be written", "disk full")
    bench.say(GATEWAY, m.RenewKey(7, "management", proof(bench)))
    assert bench.only(GATEWAY, m.AskRefused).error == "StoreFailed"
    assert bench.take(GATEWAY, m.KeysChanged) == []
    assert opens(joined(bench, b"g-2"), "management") == {sent_hash(old["management"])}
    bench.store_error = None
    bench.say(GATEWAY, m.RenewKey(8, "management", proof(bench)))
    assert bench.only(GATEWAY, m.KeyRenewed).ask == 8
