"""Registering, scaling, defaults and unregistering, in TorchServe's words."""

import pytest

from tests.broker.core.test_keyring import joined as joined_with_keys
from tests.broker.core.test_keyring import opens, proof
from tests.broker.core.test_keyring import rig as rig_with_keys
from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.broker.core.keyring import sent_hash
from torchrelay.shared import errors
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.settings import LoadAtStart
from torchrelay.shared.wire import messages as m


def joined() -> Rig:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    return rig


def refusal(rig: Rig) -> tuple[str, str]:
    refused = rig.only(GATEWAY, m.AskRefused)
    return refused.error, refused.message


def test_a_broker_that_was_not_told_enable_model_api_registers_and_unregisters_for_no_gateway() -> None:
    rig = Rig(settings(enable_model_api=False, load_models=()))
    rig.at_start = [LoadAtStart(rig.archive())]
    rig.restart()
    rig.join_gateway()
    rig.join_node()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive("2.mar", version="2.0")))
    assert refusal(rig)[0] == "MethodNotAllowed"
    rig.say(GATEWAY, m.UnregisterModel(6, "m", None))
    assert refusal(rig)[0] == "MethodNotAllowed"
    assert [record.version for record in rig.core.catalog] == ["1.0"]
    rig.say(GATEWAY, m.ScaleWorkers(7, "m", None, 0, 0, False))  # as in TorchServe
    rig.only(GATEWAY, m.WorkersScaled)


def test_a_caller_hears_nothing_before_the_registry_has_it_on_disk() -> None:
    rig = joined()
    rig.store_error = errors.StoreFailed("The registry could not be written", "disk full")
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive()))
    assert refusal(rig) == ("StoreFailed", "The registry could not be written")
    assert not list(rig.core.catalog)
    rig.store_error = None
    rig.say(GATEWAY, m.RegisterModel(6, rig.archive()))
    rig.only(GATEWAY, m.ModelRegistered)


@pytest.mark.parametrize("window_s", [3, 30])
def test_a_model_is_healthy_while_it_may_still_recover(window_s: int) -> None:
    rig = joined()
    rig.archive("u", config=ModelConfig(restart_window_s=window_s))
    rig.say(GATEWAY, m.RegisterModel(5, "u", initial_workers=1, synchronous=False))

    def is_healthy() -> bool:
        rig.say(GATEWAY, m.ReadHealth(6))
        return rig.only(GATEWAY, m.HealthRead).healthy

    rig.exit_worker(rig.only(NODE, m.StartWorker).worker_id)
    rig.pass_time(window_s - 0.5)
    assert is_healthy()
    rig.pass_time(1)
    assert not is_healthy()  # whether or not a worker is just loading
    rig.say(GATEWAY, m.UnregisterModel(7, "m", None))
    assert is_healthy()


def test_pages_of_the_list_are_torchserves() -> None:
    rig = joined()
    for name in ("m1", "M4", "m3"):
        rig.register(model=name, initial_workers=0)
    rig.say(GATEWAY, m.ListModels(9, 2, 0))
    page = rig.only(GATEWAY, m.ModelsListed)
    assert [entry.model for entry in page.models] == ["M4", "m1"]
    assert page.next_offset == 2
    rig.say(GATEWAY, m.ListModels(9, 1, 2))
    assert rig.only(GATEWAY, m.ModelsListed).next_offset == 3  # at the exact end there is another page
    rig.say(GATEWAY, m.ListModels(9, 100, 3))
    assert rig.only(GATEWAY, m.ModelsListed) == m.ModelsListed(9, (), None)


def test_the_list_shows_each_change_at_once() -> None:
    rig = joined()

    def listed() -> list[tuple[str, str]]:
        rig.say(GATEWAY, m.ListModels(9, 100, 0))
        return [(entry.model, entry.url) for entry in rig.only(GATEWAY, m.ModelsListed).models]

    for model, version in (("b", "1.0"), ("b", "2.0"), ("a", "1.0")):
        rig.register(model, version, initial_workers=0)
        assert (model, f"{model}-1.0.mar") in listed()
    rig.say(GATEWAY, m.SetDefault(10, "b", "2.0"))
    assert listed() == [("a", "a-1.0.mar"), ("b", "b-2.0.mar")]
    rig.say(GATEWAY, m.UnregisterModel(11, "b", "1.0"))
    rig.say(GATEWAY, m.UnregisterModel(12, "a", None))
    assert listed() == [("b", "b-2.0.mar")]


def test_metrics_count_every_outcome() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1, 2)
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.say(GATEWAY, m.ReadMetrics(8))
    families = {family.name: family for family in rig.only(GATEWAY, m.MetricsRead).families}
    outcomes = {dict(s.labels)["outcome"]: s.value for s in families["torchrelay_requests_total"].samples}
    assert outcomes == {"answered": 1.0}
    buckets = [s for s in families["torchrelay_batch_jobs"].samples if dict(s.labels).get("le") == "+Inf"]
    assert [s.value for s in buckets] == [2.0]
    (running,) = families["torchrelay_jobs_running"].samples
    assert running.value == 1.0


def test_the_fleet_is_shown_whole() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.say(GATEWAY, m.ReadFleet(8))
    fleet = rig.only(GATEWAY, m.FleetRead)
    assert (fleet.epoch, fleet.gateways, len(fleet.nodes)) == (1, 1, 1)
    assert fleet.nodes[0].slots_used == 1
    assert fleet.versions[0].workers[0].state == "ready"


def test_renewing_ends_the_key_before_at_once_and_tells_all_gateways_before_the_caller() -> None:
    bench = rig_with_keys()
    joined_with_keys(bench)
    joined_with_keys(bench, b"g-2")
    old = dict(bench.key_file)
    bench.say(GATEWAY, m.RenewKey(7, "inference", proof(bench)))
    assert [type(message) for message, _ in bench.inbox[GATEWAY]] == [m.KeysChanged, m.KeyRenewed]
    keys = bench.only(b"g-2", m.KeysChanged)
    assert opens(keys, "inference") == {sent_hash(bench.key_file["inference"])}
    assert bench.key_file["inference"] != old["inference"]
    assert (bench.key_file["management"], bench.key_file["token"]) == (old["management"], old["token"])


def test_two_renewals_at_once_make_two_keys_of_which_only_the_last_opens() -> None:
    bench = rig_with_keys()
    joined_with_keys(bench)
    first, second = (bench.event(GATEWAY, m.RenewKey(number, "inference", proof(bench))) for number in (7, 8))
    bench.feed(first, second)
    assert [reply.ask for reply in bench.take(GATEWAY, m.KeyRenewed)] == [7, 8]
    keys = bench.take(GATEWAY, m.KeysChanged)
    assert len(set.union(*(opens(one, "inference") for one in keys))) == 2
    assert opens(keys[-1], "inference") == {sent_hash(bench.key_file["inference"])}


def test_a_key_that_could_not_be_kept_changes_nothing() -> None:
    bench = rig_with_keys()
    joined_with_keys(bench)
    old = dict(bench.key_file)
    bench.store_error = errors.StoreFailed("The key file can't be written", "disk full")
    bench.say(GATEWAY, m.RenewKey(7, "management", proof(bench)))
    assert bench.only(GATEWAY, m.AskRefused).error == "StoreFailed"
    assert bench.take(GATEWAY, m.KeysChanged) == []
    assert opens(joined_with_keys(bench, b"g-2"), "management") == {sent_hash(old["management"])}
    bench.store_error = None
    bench.say(GATEWAY, m.RenewKey(8, "management", proof(bench)))
    assert bench.only(GATEWAY, m.KeyRenewed).ask == 8
