import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import worker

# Before any test module imports ours that speak `ts`; the launcher does the same before it imports them.
sys.path.insert(0, str(Path(worker.__file__).parent / "compat"))


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget afterwards what a test imported, so that each archive brings its modules anew."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("torch", "ts.")):
            del sys.modules[name]
