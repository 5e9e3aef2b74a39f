"""Orders of events that are rare in life, and peers that mean harm: each once went wrong."""

from typing import Any

import pytest

from tests.broker.rig import CPU, GATEWAY, NODE, Rig, held, settings, worker_hello
from torchrelay.broker.core.effects import Effect, Prepare, Store, WriteSnapshot
from torchrelay.broker.core.events import Event, Stored, Unreachable
from torchrelay.broker.core.states import WorkerState
from torchrelay.shared import errors
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m


class SlowRig(Rig):
    """Lets the work of threads wait until the test releases it, and keeps all effects."""

    def __init__(self, *arguments: Any) -> None:  # Any: the base's own
        self.effects: list[Effect] = []
        self.held: list[Event] | None = None
        super().__init__(*arguments)

    def _perform(self, effect: Effect, results: list[Event]) -> None:
        self.effects.append(effect)
        done: list[Event] = []
        super()._perform(effect, done)
        if self.held is not None and isinstance(effect, Store | Prepare | WriteSnapshot):
            self.held += done
        else:
            results += done

    def release(self) -> None:
        waiting, self.held = self.held or [], None
        self.feed(*waiting)


def two_versions(rig: Rig) -> None:
    rig.join_gateway()
    rig.register(version="1.0", initial_workers=0)
    rig.register(version="2.0", initial_workers=0)


# Versions


def test_a_registration_taken_back_leaves_no_default_without_a_version() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive("v1.mar", "m", "1.0"), initial_workers=1))
    order = rig.only(NODE, m.StartWorker)
    rig.register(version="2.0", initial_workers=0)
    rig.exit_worker(order.worker_id, reason="ValueError: no weights")
    assert rig.core.catalog.resolve("m", None).version == "2.0"
    rig.restart()
    assert rig.core.catalog.resolve("m", None).version == "2.0"


def test_a_version_made_default_while_it_goes_gives_way_to_another() -> None:
    rig = SlowRig()
    two_versions(rig)
    rig.held = []
    rig.say(GATEWAY, m.SetDefault(3, "m", "2.0"))
    rig.say(GATEWAY, m.UnregisterModel(4, "m", "2.0"))
    rig.release()
    assert rig.core.catalog.resolve("m", None).version == "1.0"


def test_a_version_that_goes_first_cannot_be_made_default() -> None:
    rig = SlowRig()
    two_versions(rig)
    rig.held = []
    rig.say(GATEWAY, m.UnregisterModel(4, "m", "2.0"))
    rig.say(GATEWAY, m.SetDefault(3, "m", "2.0"))
    rig.release()
    assert rig.only(GATEWAY, m.AskRefused).error == "ModelVersionNotFound"


def test_a_registration_waits_for_an_archive_that_is_still_being_fetched() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive(), initial_workers=1, startup_timeout_s=20))
    order = rig.only(NODE, m.StartWorker)
    for second in range(60):
        rig.say(NODE, m.WorkerProgressed(order.worker_id, "fetching", 0, second, 100))
        rig.pass_time(1)
    rig.worker_ready(order)
    assert rig.only(GATEWAY, m.ModelRegistered).done


def test_the_figures_of_a_model_go_with_it() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.say(GATEWAY, m.UnregisterModel(2, "m", None))
    rig.exit_worker(9000)
    rig.pass_time(1)
    assert not rig.core.stats.versions
    assert not rig.core.jobs.queues


def test_failures_of_a_model_that_never_had_a_request_go_with_it() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.exit_worker(9000)
    assert rig.core.stats.worker_failures == {("m", "1.0"): 1}
    rig.say(GATEWAY, m.UnregisterModel(2, "m", None))
    assert not rig.core.stats.worker_failures


# Workers


def test_the_second_of_two_batches_has_a_deadline_when_the_first_did_not_leave() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(1)
    rig.pass_time(0.01)
    rig.complete(worker, rig.only(worker, m.Assign))
    rig.submit(2, 3)
    first, _ = rig.take(worker, m.Assign)
    rig.feed(Unreachable(worker, first))  # the rig checks the invariant


def test_ids_of_adopted_workers_are_not_given_out_again() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register()
    rig.take(NODE, m.StartWorker)
    rig.core.fleet._next_worker_id += 10_000
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 2, 2, synchronous=False))
    order = rig.only(NODE, m.StartWorker)
    rig.restart()
    rig.join_gateway()
    rig.join_node(workers=(held(order),))
    rig.pass_time(1)
    assert order.worker_id not in {new.worker_id for new in rig.take(NODE, m.StartWorker)}


# Nodes, gateways, the broker itself


def test_a_leaving_node_that_says_hello_again_gets_no_workers() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.say(NODE, m.Bye())
    rig.say(NODE, m.HelloNode(m.PROTOCOL_VERSION, "n-1", (CPU,), 8, ()))
    rig.pass_time(2)
    assert not rig.take(NODE, m.StartWorker)


def test_an_answer_of_this_turn_comes_before_the_word_that_its_job_is_unknown() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.submit(7)
    batch = rig.only(worker, m.Assign)
    done = m.Completed(batch.lease, 1, (m.CompletedItem(200, b"a"),))
    rig.feed(rig.event(worker, done), rig.event(GATEWAY, m.GatewayBeat({}, jobs=(7,))))
    assert isinstance(rig.inbox[GATEWAY][0][0], m.Answered)


def test_after_a_restart_what_had_been_accepted_is_not_refused() -> None:
    rig = Rig(settings(job_queue_size=10))
    rig.ready_rig(workers=4, batch_size=4, max_batch_delay_ms=0)
    rig.submit(*range(16))
    rig.submit(*range(100, 108))
    assert not rig.take(GATEWAY, m.Refused)
    rig.restart()
    rig.join_gateway()
    rig.submit(*range(16))
    rig.submit(*range(100, 108))
    assert not rig.take(GATEWAY, m.Refused)


def test_a_batch_is_never_larger_than_a_message_may_be() -> None:
    rig = Rig(settings(job_queue_size=1000))
    (worker,) = rig.ready_rig(batch_size=256)
    for job in range(0, 256, 4):
        items = tuple(m.SubmitItem(job + n, "m", None, False, b"x" * 60_000) for n in range(4))
        rig.say(GATEWAY, m.Submit(items))
    rig.pass_time(0.2)
    (batch,) = rig.take(worker, m.Assign)
    assert len(codec.encode(batch, 1)) < codec.HEAD_LIMIT_BYTES
    rig.complete(worker, batch)
    for job in range(300, 308):
        item = m.SubmitItem(job, "m", None, False, b"x", 600)
        rig.say(GATEWAY, m.Submit((item,)), [b"y"] * 600)
    rig.pass_time(0.2)
    assert all(len(frames) <= codec.FRAMES_LIMIT for _, frames in rig.inbox[worker])


# Peers that mean harm


@pytest.mark.parametrize("device", ["cuda:MIG-1", "cuda:" + "9" * 5000, "tpu", ""])
def test_a_device_of_an_odd_name_harms_nobody(device: str) -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.say(NODE, m.HelloNode(m.PROTOCOL_VERSION, "n", (m.Device(device, "gpu"),), 4, ()))
    assert len(rig.only(NODE, m.Misunderstood).reason) < 250
    rig.register()
    assert rig.only(NODE, m.StartWorker).device == "cpu"


def test_a_worker_that_is_here_cannot_be_impersonated() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.say(b"thief", worker_hello(rig))
    rig.only(b"thief", m.Leave)
    rig.say(worker, m.Bye())
    rig.say(b"thief", m.Bye())
    assert not [w for w in rig.core.fleet.workers.values() if w.state is WorkerState.READY]


def test_a_worker_of_one_model_cannot_take_the_id_of_anothers() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.join_node()
    rig.register()
    order = rig.only(NODE, m.StartWorker)
    rig.register(model="other", initial_workers=0)
    rig.say(b"thief", worker_hello(rig, "other", order.worker_id))
    rig.only(b"thief", m.Leave)


def test_a_gateways_figures_are_taken_only_of_classes_that_exist() -> None:
    rig = Rig()
    rig.join_gateway()
    rig.say(GATEWAY, m.GatewayBeat({"2xx": 2, "made up": 5}))
    assert dict(rig.core.stats.responses) == {"2xx": 2}


def test_a_failed_store_frees_the_name_for_another_try() -> None:
    rig = SlowRig()
    rig.join_gateway()
    rig.held = []
    rig.say(GATEWAY, m.RegisterModel(5, rig.archive()))
    waiting, rig.held = rig.held, []
    rig.feed(*waiting)
    (stored,) = rig.held
    assert isinstance(stored, Stored)
    rig.held = None
    rig.feed(Stored(stored.token, errors.StoreFailed("full")))
    rig.only(GATEWAY, m.AskRefused)
    rig.say(GATEWAY, m.RegisterModel(6, rig.archive()))
    rig.only(GATEWAY, m.ModelRegistered)
