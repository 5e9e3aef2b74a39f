"""Archives that require packages: those are installed before a registration is answered."""

import pytest

from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.broker.models.records import Prepared
from torchrelay.shared.wire import messages as m


def registering(*, workers: int, synchronous: bool = False) -> Rig:
    """Ask for the registration of an archive with requirements."""
    rig = Rig(settings(install_py_dep_per_model=True))
    rig.join_gateway()
    rig.join_node()
    rig.archives["u"] = Prepared("sha", 1, "m", "1.0", "h", "python", "f", has_requirements=True)
    rig.say(GATEWAY, m.RegisterModel(5, "u", initial_workers=workers, synchronous=synchronous))
    return rig


def progress(rig: Rig, worker_id: int, phase: str) -> None:
    rig.say(NODE, m.WorkerProgressed(worker_id, phase))  # type: ignore[arg-type]  # one of its phases


def installed(rig: Rig, order: m.StartWorker) -> None:
    rig.say(NODE, m.WorkerExited(order.worker_id, 0, None, "installed", False, ()))


def test_packages_that_cannot_be_installed_are_the_callers_to_mend() -> None:
    rig = registering(workers=1, synchronous=True)
    order = rig.only(NODE, m.StartWorker)
    rig.say(NODE, m.WorkerProgressed(order.worker_id, "installing"))
    rig.exit_worker(order.worker_id, reason="No matching distribution found for nosuch==9")
    refused = rig.only(GATEWAY, m.AskRefused)
    assert refused.error == "DependenciesFailed"
    assert refused.message == "Custom pip package installation failed for model m"
    assert "nosuch==9" in refused.details
    assert not list(rig.core.catalog)


@pytest.mark.parametrize(("is_on", "is_named", "is_ordered"), [(1, 1, 1), (1, 0, 0), (0, 1, 0)])
def test_packages_are_installed_where_it_is_on_and_the_archive_names_them(
    is_on: bool, is_named: bool, is_ordered: bool
) -> None:
    rig = Rig(settings(install_py_dep_per_model=bool(is_on)))
    rig.join_gateway()
    rig.join_node()
    rig.archives["u"] = Prepared("sha", 1, "m", "1.0", "h", "python", "f", has_requirements=bool(is_named))
    rig.say(GATEWAY, m.RegisterModel(5, "u", initial_workers=1, synchronous=False))
    assert rig.only(NODE, m.StartWorker).install_dependencies == bool(is_ordered)


def test_a_registration_without_workers_is_answered_when_they_are_installed() -> None:
    rig = registering(workers=0)
    order = rig.only(NODE, m.StartWorker)
    assert order.install_dependencies
    assert order.installs_only
    progress(rig, order.worker_id, "installing")
    assert not rig.take(GATEWAY, m.ModelRegistered)
    installed(rig, order)
    assert rig.only(GATEWAY, m.ModelRegistered) == m.ModelRegistered(5, "m", "1.0", 0, True)
    assert not rig.core.fleet.workers
    assert not rig.core.fleet.conditions
    rig.pass_time(60)
    assert not rig.take(NODE, m.StartWorker)


@pytest.mark.parametrize(("workers", "phase"), [(0, "fetching"), (0, "installing"), (2, "installing")])
def test_a_registration_that_waits_for_nothing_else_fails_with_the_installer(
    workers: int, phase: str
) -> None:
    rig = registering(workers=workers)
    order, *_ = rig.take(NODE, m.StartWorker)
    progress(rig, order.worker_id, phase)
    rig.exit_worker(order.worker_id, reason="No matching distribution found for nosuch==9")
    refused = rig.only(GATEWAY, m.AskRefused)
    assert refused.message == "Custom pip package installation failed for model m"
    assert "nosuch==9" in refused.details
    assert not list(rig.core.catalog)


def test_an_asynchronous_registration_is_answered_when_its_workers_begin_to_load() -> None:
    rig = registering(workers=2)
    one, two = rig.take(NODE, m.StartWorker)
    assert not one.installs_only
    assert not two.installs_only
    for order in (one, two):
        progress(rig, order.worker_id, "installing")
    progress(rig, one.worker_id, "loading")
    assert not rig.take(GATEWAY, m.ModelRegistered)
    progress(rig, two.worker_id, "loading")
    assert rig.only(GATEWAY, m.ModelRegistered) == m.ModelRegistered(5, "m", "1.0", 2, False)


def test_what_fails_after_the_installation_is_not_an_asynchronous_callers_to_hear() -> None:
    rig = registering(workers=1)
    order = rig.only(NODE, m.StartWorker)
    progress(rig, order.worker_id, "installing")
    progress(rig, order.worker_id, "loading")
    rig.exit_worker(order.worker_id, reason="ValueError: bad weights")
    rig.only(GATEWAY, m.ModelRegistered)
    assert [record.model for record in rig.core.catalog] == ["m"]


def test_a_fleet_without_room_installs_nothing_and_says_so_at_its_first_worker() -> None:
    rig = Rig(settings(install_py_dep_per_model=True))
    rig.join_gateway()
    rig.archives["u"] = Prepared("sha", 1, "m", "1.0", "h", "python", "f", has_requirements=True)
    rig.say(GATEWAY, m.RegisterModel(5, "u", initial_workers=0, synchronous=False))
    rig.only(GATEWAY, m.ModelRegistered)
    rig.join_node()
    rig.pass_time(10)
    assert not rig.take(NODE, m.StartWorker)


def test_a_node_that_is_lost_while_it_installs_ends_the_wait() -> None:
    rig = registering(workers=0)
    rig.only(NODE, m.StartWorker)
    rig.lose_node(NODE)
    rig.pass_time(60)
    rig.only(GATEWAY, m.ModelRegistered)
    assert not rig.core.fleet.workers


def test_what_is_installed_for_no_worker_is_stopped_when_its_model_is_unregistered() -> None:
    rig = registering(workers=0)
    order = rig.only(NODE, m.StartWorker)
    rig.say(GATEWAY, m.UnregisterModel(6, "m", None))
    assert rig.only(NODE, m.StopWorker).worker_id == order.worker_id
    rig.exit_worker(order.worker_id, reason="told to stop")
    rig.only(GATEWAY, m.ModelUnregistered)
    assert rig.only(GATEWAY, m.AskRefused).message == "Model not found: m"


def test_a_model_that_is_being_installed_can_be_scaled() -> None:
    rig = registering(workers=0)
    install = rig.only(NODE, m.StartWorker)
    rig.say(GATEWAY, m.ScaleWorkers(6, "m", None, 1, 1, synchronous=True))
    order = rig.only(NODE, m.StartWorker)
    assert not order.installs_only
    rig.worker_ready(order)
    installed(rig, install)
    rig.only(GATEWAY, m.ModelRegistered)
    rig.only(GATEWAY, m.WorkersScaled)
    rig.pass_time(60)
    assert list(rig.core.fleet.workers) == [order.worker_id]
