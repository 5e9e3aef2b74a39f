"""Calls about models: what is asked, and the steps of those that take several."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.cli import bodies
from torchrelay.client import management_calls as calls
from torchrelay.client.http_calls import Call, Pause, Shown
from torchrelay.shared.api_bodies import FleetBody, FleetModelBody, ModelsBody, ModelsEntryBody
from torchrelay.shared.errors import ModelNotFound


def test_a_change_that_waits_has_the_servers_limits_and_others_our_own() -> None:
    assert calls.scale("m", 2, wait=True).timeout_s is None
    assert calls.register("m.mar", wait=True).timeout_s is None
    assert calls.register("m.mar").timeout_s == 30
    assert calls.scale("m", 2).target == "/models/m?min_worker=2&synchronous=false"


def test_only_what_sets_a_value_or_reads_may_be_repeated() -> None:
    changes: list[Call[Any]] = [calls.register("m.mar"), calls.unregister("m"), calls.rotate_broker_key()]
    assert [call.repeated for call in (*changes, calls.renew_key("inference"))] == ["harmful"] * 4
    settings: list[Call[Any]] = [calls.scale("m", 1), calls.set_default("m", "1")]
    reading: list[Call[Any]] = [calls.describe("m"), calls.fleet(), calls.ready()]
    assert {call.repeated for call in settings + reading} == {"harmless"}


def steps_of(fleets: Sequence[FleetBody], version: str | None = None) -> list[object]:
    """Return what watching a model does with each of these looks at the fleet."""
    steps, left = calls.watch("m", version), list(fleets)
    done: list[object] = []
    step = next(steps)
    while True:
        done.append("look" if isinstance(step, Call) else step)
        try:
            step = steps.send(left.pop(0) if isinstance(step, Call) else None)
        except StopIteration:
            return done


def test_watching_shows_changes_alone_and_pauses_in_between() -> None:
    loading = bodies.model(workers=(bodies.fleet_worker(state="loading"),))
    ready = bodies.model(workers_ready=1)
    other = bodies.model(model_name="n", workers_ready=1)
    again = bodies.model(workers=loading.workers, queue_depth=7)
    pause = Pause(calls.WATCH_INTERVAL_S)
    assert steps_of([bodies.fleet(other, one) for one in (loading, again, ready)]) == [
        "look", Shown(loading), pause, "look", pause, "look", Shown(ready),
    ]  # fmt: skip


def test_watching_means_the_default_version_unless_one_is_named() -> None:
    old: FleetModelBody = bodies.model(is_default=False, workers_ready=1)
    new = bodies.model(model_version="2.0", workers_ready=1)
    assert steps_of([bodies.fleet(old, new)])[-1] == Shown(new)
    assert steps_of([bodies.fleet(old, new)], "1.0")[-1] == Shown(old)
    with pytest.raises(ModelNotFound, match="m 3"):
        steps_of([bodies.fleet(old, new)], "3")


def test_pages_are_asked_for_until_there_is_none() -> None:
    steps = calls.models()
    a, b = (ModelsEntryBody(model_name=name, model_url=f"{name}.mar") for name in "ab")
    assert isinstance(first := next(steps), Call)
    assert first.target == "/models?next_page_token=0"
    assert steps.send(ModelsBody(models=(a,), next_page_token="1")) == Shown(a)
    assert isinstance(second := next(steps), Call)
    assert second.target == "/models?next_page_token=1"
    assert steps.send(ModelsBody(models=(b,))) == Shown(b)
    with pytest.raises(StopIteration):
        next(steps)
