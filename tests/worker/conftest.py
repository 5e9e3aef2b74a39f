import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import torchrelay.worker
from tests.worker.nodes import Fleet

# Before any test module imports ours that speak `ts`; the launcher does the same before it imports them.
sys.path.insert(0, str(Path(torchrelay.worker.__file__).parent / "compat"))


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget afterwards what a test imported from its archives, so that each brings its modules anew."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    archives = str(tmp_path_factory.getbasetemp())
    before = dict(sys.modules)
    yield
    for name, module in list(sys.modules.items()):
        if before.get(name) is not module and _origin(module).startswith(archives):
            del sys.modules[name]


def _origin(module: ModuleType) -> str:
    """Return the file of a module, or the folder of a package without one."""
    return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet without a node."""
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def lasting_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    fleet.start_node()
    fleet.node = fleet.join()
    yield fleet
    fleet.close()


@pytest.fixture
def joined(lasting_fleet: Fleet) -> Iterator[Fleet]:
    """A fleet with one node, for tests that leave it as it was: starting one takes its time."""
    lasting_fleet.beat()  # while another fleet's test ran, this broker seemed to be away
    yield lasting_fleet
    lasting_fleet.stop_workers()
