"""How much a worker gets, and when."""

from typing import Any  # ModelConfig's own fields, by name

import pytest

from torchrelay.broker.jobs import batching
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.archives.model_config import ModelConfig


def record(**config: Any) -> VersionRecord:
    return VersionRecord(
        "m", "1.0", "m.mar", "sha", 1, "handler", "python", 1, 1, 8, 100, 120, 120,
        loaded_at_startup=False, config=ModelConfig(**config),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "leases"),
    [
        ({}, 0),
        ({"sequence_batching": True}, 0),
        ({"continuous_batching": True}, 8),
        ({"continuous_batching": True, "sequence_batching": True}, 16),
        ({"async_communication": True}, batching.ASYNC_LEASES_LIMIT),
    ],
)
def test_each_mode_has_its_number_of_concurrent_leases(config: dict[str, bool], leases: int) -> None:
    assert batching.concurrent_leases(record(**config)) == leases


def test_a_worker_in_order_has_room_for_one_batch_and_others_for_what_they_lack() -> None:
    assert [batching.room(record(), leases=leases) for leases in (0, 1, 2)] == [8, 0, 0]
    continuous = record(continuous_batching=True)
    assert [batching.room(continuous, leases=leases) for leases in (0, 3, 8)] == [8, 5, 0]


@pytest.mark.parametrize(
    ("batch_size", "service_s", "limit"),
    [(1, 0.0, 1), (1, 0.0001, 21), (1, 0.00001, 33), (1, 0.0019, 2), (1, 0.1, 2),
     (1, batching.SEND_AHEAD_LIMIT_S, 1), (16, 0.0001, 3), (16, 0.0015, 2), (64, 0.0001, 2)],
)  # fmt: skip
def test_a_worker_is_given_ahead_what_it_runs_in_a_short_time(
    batch_size: int, service_s: float, limit: int
) -> None:
    assert batching.lease_limit(batch_size=batch_size, service_s=service_s, ahead_s=0.00201) == limit


def test_without_time_to_give_ahead_one_batch_is() -> None:
    assert batching.lease_limit(batch_size=1, service_s=0.0001, ahead_s=0) == 2


@pytest.mark.parametrize(
    ("slowest_s", "count"), [(0.0, 1), (0.0000099, 30), (0.00014, 2), (0.00016, 1), (1.0, 1)]
)
def test_what_runs_sooner_than_another_worker_wakes_up_is_not_shared_out(
    slowest_s: float, count: int
) -> None:
    assert batching.together(slowest_s=slowest_s) == count


def test_the_service_time_follows_the_latest_batches() -> None:
    assert batching.smooth_service(0, 2.0) == 2.0
    average = 2.0
    for _ in range(30):
        average = batching.smooth_service(average, 1.0)
    assert average == pytest.approx(1.0, abs=0.01)


def test_suspects_run_alone_until_they_have_waited_long() -> None:
    assert batching.isolated_count(suspects=9, waited_share=0.0) == 1
    assert batching.isolated_count(suspects=9, waited_share=batching.ALONE_SHARE) == 5
    assert batching.isolated_count(suspects=1, waited_share=1.0) == 1


def test_what_was_given_up_makes_no_model_look_fast_but_may_make_it_look_slow() -> None:
    assert batching.smooth_service(2.0, 0.1, was_whole=False) == 2.0
    assert batching.smooth_service(0.0, 0.1, was_whole=False) == 0.0
    assert batching.smooth_service(2.0, 4.0, was_whole=False) > 2.0


def test_workers_run_as_many_jobs_as_their_batches_or_their_leases_have() -> None:
    assert batching.capacity(record(), workers=3) == 24
    assert batching.capacity(record(continuous_batching=True), workers=2) == 16
    assert batching.capacity(record(async_communication=True), workers=1) == batching.ASYNC_LEASES_LIMIT
