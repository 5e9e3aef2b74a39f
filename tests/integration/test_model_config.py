"""An archive's model-config.yaml, from the archive to what is described and served."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.archives import make
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Fleet]:
    store = tmp_path / "models"
    store.mkdir()
    make(store, "echo", config="minWorkers: 1\nmaxWorkers: 2\nbatchSize: 4\nmaxBatchDelay: many\n")
    make(store, "teller", config="minWorkers: [\n")
    with fleet(tmp_path, store) as made:
        made.serve("--enable-model-api")
        yield made


def test_what_the_archive_asks_for_is_described_and_what_it_got_wrong_is_not(server: Fleet) -> None:
    assert "registered with 1 initial workers" in server.register("echo.mar").json()["status"]
    described = server.describe("echo")
    wanted = {"minWorkers": 1, "maxWorkers": 2, "batchSize": 4, "maxBatchDelay": 100, "responseTimeout": 120}
    assert {key: described[key] for key in wanted} == wanted

    def is_told() -> bool:
        logs = (path.read_text() for path in (server.folder / "state" / "logs").iterdir() if path.is_file())
        return any("model.config_ignored" in log and "maxBatchDelay" in log for log in logs)

    eventually(is_told)
    assert server.predict("echo", b"x").content == b"x"


def test_a_config_that_cannot_be_read_shows_when_a_worker_starts(server: Fleet) -> None:
    assert server.register("teller.mar").status_code == 200
    failed = server.scale("teller", min_worker=1, synchronous=True)
    assert failed.status_code == 500
    assert "ScannerError" in failed.text or "ParserError" in failed.text
    assert [worker["status"] for worker in server.describe("teller")["workers"]] == ["UNLOADING"]
    assert server.scale("teller", min_worker=0, max_worker=0, synchronous=True).status_code == 200
    eventually(lambda: server.describe("teller")["workers"] == [])
