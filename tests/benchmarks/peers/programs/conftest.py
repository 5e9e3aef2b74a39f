"""Loads the programs of servers that aren't installed here: what they import is given."""

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from benchmarks.peers.programs import served_models

Load = Callable[..., ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a program anew, with objects in the place of the modules that it names."""
    loaded: list[str] = []

    def load(name: str, **modules: dict[str, Any]) -> ModuleType:
        monkeypatch.setitem(sys.modules, "served_models", served_models)
        for module, has in modules.items():
            monkeypatch.setitem(sys.modules, module, SimpleNamespace(**has))
        loaded.append(f"benchmarks.peers.programs.{name}")
        return importlib.import_module(loaded[-1])

    yield load
    for name in loaded:
        sys.modules.pop(name, None)
