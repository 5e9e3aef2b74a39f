"""Workflows: all of one is registered, or nothing; what callers hear, and what is left after a restart."""

from typing import Any

import pytest

from tests.broker.core.test_keyring import joined as joined_with_keys
from tests.broker.core.test_keyring import rig as rig_with_keys
from tests.broker.models.test_changes import refusal
from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.broker.models.origins import parse
from torchrelay.broker.models.records import PreparedWorkflow
from torchrelay.broker.models.version_changes import WAIT_SLACK_S
from torchrelay.shared import errors
from torchrelay.shared.archives import workflow_spec
from torchrelay.shared.wire import messages as m

SPEC = b"""
models:
  max-batch-delay: 20
  detect: {url: detect.mar, batch-size: 4, min-workers: 2, max-workers: 3, retry-attempts: 0, timeout-ms: 70}
  classify: {url: classify.mar}
dag:
  crop: [detect, classify]
  detect: [merge]
  classify: [merge]
"""


def joined(**changes: Any) -> Rig:  # Any: of BrokerSettings
    rig = Rig(settings(enable_workflow_api=True, **changes))
    rig.join_gateway()
    rig.join_node()
    for name in ("detect", "classify"):
        rig.archive(f"{name}.mar", name)
    add(rig, "w.war")
    return rig


def add(rig: Rig, url: str, name: str = "w", spec: bytes = SPEC) -> None:
    rig.workflows[url] = PreparedWorkflow("war", 9, "/war", name, "code.py", workflow_spec.parse(spec))


def register(rig: Rig, url: str = "w.war", ask: int = 5, **fields: Any) -> None:  # Any: RegisterWorkflow's
    rig.say(GATEWAY, m.RegisterWorkflow(ask, url, **fields))


def registered(**changes: Any) -> Rig:  # Any: of BrokerSettings
    rig = joined(**changes)
    register(rig)
    rig.start_workers()
    rig.only(GATEWAY, m.WorkflowRegistered)
    return rig


def described(rig: Rig, name: str = "w") -> m.WorkflowDescribed:
    rig.say(GATEWAY, m.DescribeWorkflow(6, name))
    return rig.only(GATEWAY, m.WorkflowDescribed)


def models(rig: Rig) -> list[str]:
    return sorted(record.model for record in rig.core.catalog)


def test_a_caller_is_answered_once_every_step_has_its_workers() -> None:
    rig = joined()
    register(rig)
    *first, last = rig.take(NODE, m.StartWorker)
    assert len(first) == 5  # three of detect, one of each other
    for order in first:
        rig.worker_ready(order)
    assert not rig.take(GATEWAY, m.WorkflowRegistered)
    rig.worker_ready(last)
    assert rig.only(GATEWAY, m.WorkflowRegistered) == m.WorkflowRegistered(5, "w")


def test_each_step_is_a_model_as_the_spec_says() -> None:
    rig = registered()
    detect, crop = (rig.core.catalog.resolve(f"w__{name}", None) for name in ("detect", "crop"))
    assert (detect.min_workers, detect.max_workers, detect.batch_size, detect.max_batch_delay_ms) == (
        3, 3, 4, 20,
    )  # fmt: skip
    assert (detect.archive, detect.url, detect.handler) == ("sha-detect.mar", "detect.mar", "handler")
    assert (crop.archive, crop.url, crop.handler, crop.archive_path) == ("war", "", "code.py:crop", "/war")
    assert (crop.min_workers, crop.max_workers, crop.batch_size, crop.max_batch_delay_ms) == (1, 1, 1, 0)


def test_the_times_of_the_request_are_those_of_all_steps() -> None:
    rig = joined()
    register(rig, response_timeout_s=7, startup_timeout_s=9, workflow_name="other")
    found = [(one.model, one.response_timeout_s, one.startup_timeout_s) for one in rig.core.catalog]
    assert sorted(found) == [(f"other__{name}", 7, 9) for name in ("classify", "crop", "detect", "merge")]


def test_a_workflow_is_described_with_its_steps_in_the_order_of_the_spec() -> None:
    facts = described(registered())
    assert (facts.url, facts.min_workers, facts.batch_size, facts.max_batch_delay_ms) == ("w.war", 1, 1, 20)
    assert facts.steps == (
        m.StepFacts("crop", "w__crop", 1, 10_000, ("detect", "classify"), True),
        m.StepFacts("detect", "w__detect", 0, 70, ("merge",), True),
        m.StepFacts("classify", "w__classify", 1, 10_000, ("merge",), True),
        m.StepFacts("merge", "w__merge", 1, 10_000, (), False),
    )


def test_lists_show_workflows_and_their_models_but_no_functions() -> None:
    rig = registered()
    rig.say(GATEWAY, m.ListModels(6, 100, 0))
    assert [entry.model for entry in rig.only(GATEWAY, m.ModelsListed).models] == ["w__classify", "w__detect"]
    rig.say(GATEWAY, m.ListWorkflows(7, 1, 0))
    assert rig.only(GATEWAY, m.WorkflowsListed) == m.WorkflowsListed(7, (m.WorkflowEntry("w", "w.war"),), 1)
    rig.say(GATEWAY, m.ListWorkflows(8, 1, 1))
    assert rig.only(GATEWAY, m.WorkflowsListed) == m.WorkflowsListed(8, (), None)


def test_a_workflow_is_there_after_a_kill_with_all_of_its_steps() -> None:
    rig = registered()
    before = described(rig), models(rig)
    rig.restart()
    rig.join_gateway()
    assert (described(rig), models(rig)) == before


def test_a_worker_that_can_not_start_takes_all_of_the_workflow_with_it() -> None:
    rig = joined()
    register(rig)
    orders = rig.take(NODE, m.StartWorker)
    bad = next(order for order in orders if order.model == "w__merge")
    for order in orders:
        if order is not bad:
            rig.worker_ready(order)
    rig.exit_worker(bad.worker_id, reason="ValueError: code must define a function merge")
    refused = rig.only(GATEWAY, m.AskRefused)
    assert (refused.error, refused.message) == (
        "WorkflowFailed",
        "Workflow w has failed to register. Failures: "
        "[Failed to start workers for model w__merge version: 1.0]",
    )
    assert refused.details == "w__merge: ValueError: code must define a function merge"
    assert (models(rig), dict(rig.core.catalog.workflows)) == ([], {})
    assert not rig.registry.load().versions


def test_a_fleet_without_room_for_a_step_refuses_the_workflow() -> None:
    rig = Rig(settings(enable_workflow_api=True))
    rig.join_gateway()
    rig.join_node(slots=5)
    rig.archive("detect.mar", "detect")
    rig.archive("classify.mar", "classify")
    add(rig, "w.war")
    register(rig, startup_timeout_s=2)
    rig.start_workers()
    rig.pass_time(2 + WAIT_SLACK_S + 1)
    assert refusal(rig)[0] == "WorkflowFailed"
    assert models(rig) == []


def test_archives_that_can_not_be_registered_are_all_named_and_nothing_is_left() -> None:
    rig = joined()
    rig.archives["detect.mar"] = errors.DownloadFailed("Failed to download archive from: detect.mar")
    del rig.archives["classify.mar"]
    register(rig)
    assert refusal(rig) == (
        "WorkflowFailed",
        "Workflow w has failed to register. Failures: [Workflow Node w__detect failed to register. Details: "
        "Failed to download archive from: detect.mar, Workflow Node w__classify failed to register. Details: "
        "Model not found at: classify.mar]",
    )
    assert (models(rig), dict(rig.core.catalog.workflows)) == ([], {})


def test_a_model_of_a_steps_name_is_a_conflict_and_stays() -> None:
    rig = joined()
    rig.register("w__detect")
    register(rig)
    assert "Model version 1.0 is already registered for model w__detect" in refusal(rig)[1]
    assert models(rig) == ["w__detect"]


def test_a_name_is_taken_once() -> None:
    rig = registered()
    add(rig, "again.war")
    register(rig, "again.war", ask=6)
    assert refusal(rig) == ("Conflict", "Workflow w is already registered.")
    assert len(rig.core.catalog.workflows) == 1


@pytest.mark.parametrize("name", ["a/b", "..", "n" * 300])
def test_a_name_that_no_url_can_have_is_refused(name: str) -> None:
    rig = joined()
    register(rig, workflow_name=name)
    assert refusal(rig)[0] == "BadRequest"
    assert models(rig) == []


def test_an_archive_that_can_not_be_read_is_refused_as_it_says() -> None:
    rig = joined()
    rig.workflows["bad.war"] = errors.InvalidDag("Self loop exception")
    register(rig, "bad.war")
    assert refusal(rig) == ("InvalidDag", "Self loop exception")
    register(rig, "none.war", ask=6)
    assert refusal(rig) == ("WorkflowNotFound", "Workflow not found in workflow store: none.war")


def test_what_can_not_be_stored_is_not_registered() -> None:
    rig = joined()
    rig.store_error = errors.StoreFailed("The registry could not be written", "disk full")
    register(rig)
    assert refusal(rig) == ("StoreFailed", "The registry could not be written")
    assert models(rig) == []


def test_unregistering_is_answered_when_the_workers_of_all_steps_are_gone() -> None:
    rig = registered()
    rig.say(GATEWAY, m.UnregisterWorkflow(6, "w"))
    assert models(rig) == []
    assert not rig.take(GATEWAY, m.WorkflowUnregistered)
    for worker_id in [*rig.core.fleet.workers]:
        rig.exit_worker(worker_id)
    assert rig.only(GATEWAY, m.WorkflowUnregistered) == m.WorkflowUnregistered(6, "w")
    rig.say(GATEWAY, m.DescribeWorkflow(7, "w"))
    assert refusal(rig) == ("WorkflowNotFound", "Workflow not found: w")


def test_a_workflow_that_is_unregistered_while_it_starts_is_not_there_for_who_registered_it() -> None:
    rig = joined()
    register(rig)
    rig.say(GATEWAY, m.UnregisterWorkflow(6, "w"))
    rig.pass_time(1)
    refused = [one for one in rig.take(GATEWAY, m.AskRefused) if one.ask == 5]
    assert [one.error for one in refused] == ["WorkflowNotFound"]


def test_an_unknown_workflow_can_not_be_unregistered_and_its_name_is_not_repeated_without_end() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.say(GATEWAY, m.UnregisterWorkflow(6, "w"))
    assert refusal(rig) == ("WorkflowNotFound", "Workflow not found: w")
    rig.say(GATEWAY, m.UnregisterWorkflow(7, "n" * 3000))
    assert len(refusal(rig)[1]) < 300


def test_a_step_goes_with_its_workflow_alone() -> None:
    rig = registered()
    rig.say(GATEWAY, m.UnregisterModel(6, "w__detect", None))
    assert refusal(rig) == (
        "Conflict",
        "Model w__detect is a step of workflow w: unregister the workflow.",
    )
    assert "w__detect" in models(rig)


def test_steps_are_in_no_snapshot_and_a_models_own_archive_is_dropped_with_the_last_that_uses_it() -> None:
    rig = registered()
    rig.register("m")
    assert [model.name for model in rig.core.catalog.as_startup_models()] == ["m"]
    rig.dropped.clear()
    rig.say(GATEWAY, m.UnregisterWorkflow(6, "w"))
    dropped = {one.archive for one in rig.dropped if one.archive}
    assert dropped == {"war", "sha-detect.mar", "sha-classify.mar"}
    assert [one.origin for one in rig.dropped if one.is_workflow] == [parse("w.war")]


def test_an_archive_of_models_alone_is_not_kept() -> None:
    rig = joined()
    add(rig, "w.war", spec=b"models: {detect: {url: detect.mar}}\ndag: {detect: []}")
    register(rig)
    rig.start_workers()
    rig.only(GATEWAY, m.WorkflowRegistered)
    assert [one.archive for one in rig.dropped] == ["war"]


def test_steps_that_have_the_same_archive_have_it_fetched_once() -> None:
    rig = joined()
    spec = b"models: {a: {url: detect.mar}, b: {url: detect.mar}}\ndag: {a: [b]}"
    add(rig, "w.war", spec=spec)
    rig.prepared.clear()
    register(rig)
    rig.start_workers()
    rig.only(GATEWAY, m.WorkflowRegistered)
    assert rig.prepared == ["w.war", "detect.mar"]
    assert models(rig) == ["w__a", "w__b"]


def test_functions_alone_make_a_workflow() -> None:
    rig = joined()
    add(rig, "w.war", spec=b"models: {batch-size: 1}\ndag: {a: [b]}")
    register(rig)
    rig.start_workers()
    rig.only(GATEWAY, m.WorkflowRegistered)


def test_a_broker_that_was_not_told_so_registers_no_workflow_and_keeps_those_that_it_has() -> None:
    rig = registered()
    rig.settings = settings()
    rig.restart()
    rig.join_gateway()
    register(rig)
    assert refusal(rig) == ("BadRequest", "Registering new workflows is disabled.")
    assert described(rig).workflow == "w"


def test_a_change_needs_the_key_of_management() -> None:
    rig = rig_with_keys()
    joined_with_keys(rig)
    rig.say(GATEWAY, m.UnregisterWorkflow(6, "w"))
    assert refusal(rig)[0] == "InvalidKey"
