"""The archives that transcripts name: built once for all tests of a process, a copy for each test."""

import shutil
from pathlib import Path

import pytest

from tests.compatibility import replaying


@pytest.fixture(scope="session")
def built_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "store"
    replaying.build_store(folder)
    return folder


@pytest.fixture
def store(built_store: Path, tmp_path: Path) -> Path:
    """A model store that the test may add to: no other test sees it."""
    return shutil.copytree(built_store, tmp_path / "store")
