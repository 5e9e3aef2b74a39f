import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import worker

# Before any test module imports ours that speak `ts`; the launcher does the same before it imports them.
sys.path.insert(0, str(Path(worker.__file__).parent / "compat"))


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
