"""The archives that transcripts name, built once for all tests of a process."""

from pathlib import Path

import pytest

from tests.compatibility import replaying


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "store"
    replaying.build_store(folder)
    return folder
