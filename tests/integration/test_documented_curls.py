"""The curl commands of TorchServe's management documentation, with local archives, give its answers."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.integration.archives import make
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("preloaded_torch")]

ZERO = "Use scale workers API to add workers for the model."
NOT_ALLOWED = {
    "code": 405,
    "type": "MethodNotAllowedException",
    "message": "Requested method is not allowed, please refer to API document.",
}


def curl(server: Fleet, command: str) -> httpx2.Response:
    """Do what a documented curl command does; `localhost:PORT` is the test's own address."""
    words = shlex.split(command)
    assert words.pop(0) == "curl"
    method, url = "GET", ""
    while words:
        word = words.pop(0)
        if word == "-X":
            method = words.pop(0)
        elif word != "-v":
            url = word
    url = url if "://" in url else f"http://{url}"
    return server.http.request(method, url.replace("localhost", server.address))


def status(response: httpx2.Response) -> str:
    assert response.headers["content-type"] == "application/json"
    return str(response.json()["status"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("curls") / "models"
    store.mkdir()
    make(store, "echo", file_name="squeezenet1_1.mar")
    make(store, "echo", file_name="noop.mar")
    make(store, "echo", file_name="noop_2.mar", version="2.0")
    make(store, "describes", file_name="noop-customized.mar")
    return store


@pytest.fixture(scope="module")
def managed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("managed"), store) as made:
        made.serve("--enable-model-api")
        yield made


@pytest.fixture
def server(managed: Fleet) -> Iterator[Fleet]:
    """A server with the model API and no models, for a test that registers some."""
    yield managed
    managed.unregister_all()


@pytest.fixture(scope="module")
def unmanaged(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("unmanaged"), store) as made:
        made.serve("--models", "echo=squeezenet1_1.mar")
        yield made


def test_registering(server: Fleet) -> None:
    base = 'curl -X POST "http://localhost:8081/models?'
    answer = curl(server, base + 'url=squeezenet1_1.mar"')
    assert answer.status_code == 200
    assert status(answer) == f'Model "echo" Version: 1.0 registered with 0 initial workers. {ZERO}'
    answer = curl(server, base + 'url=squeezenet1_1.mar&model_name=kms&s3_sse_kms=true"')
    assert status(answer) == f'Model "kms" Version: 1.0 registered with 0 initial workers. {ZERO}'
    answer = curl(server, base + 'model_name=a&initial_workers=1&synchronous=false&url=squeezenet1_1.mar"')
    assert (answer.status_code, status(answer)) == (202, "Processing worker updates...")
    answer = curl(server, base + 'model_name=b&initial_workers=1&synchronous=true&url=squeezenet1_1.mar"')
    assert (answer.status_code, status(answer)) == (
        200,
        'Model "b" Version: 1.0 registered with 1 initial workers',
    )
    assert server.predict("b").content == b"hello"
    eventually(lambda: server.predict("a").content == b"hello")


def test_scaling_describing_and_unregistering(server: Fleet) -> None:
    for archive in ("noop.mar", "noop_2.mar"):
        curl(server, f'curl -X POST "http://localhost:8081/models?url={archive}&model_name=noop"')
    answer = curl(server, 'curl -v -X PUT "http://localhost:8081/models/noop?min_worker=3"')
    assert (answer.status_code, status(answer)) == (202, "Processing worker updates...")
    answer = curl(server, 'curl -v -X PUT "http://localhost:8081/models/noop?min_worker=3&synchronous=true"')
    assert (answer.status_code, status(answer)) == (200, "Workers scaled to 3 for model: noop")
    answer = curl(
        server, 'curl -v -X PUT "http://localhost:8081/models/noop/2.0?min_worker=3&synchronous=true"'
    )
    assert (answer.status_code, status(answer)) == (200, "Workers scaled to 3 for model: noop, version: 2.0")

    (described,) = curl(server, "curl http://localhost:8081/models/noop").json()
    check_description(described, version="1.0", url="noop.mar")
    (described,) = curl(server, "curl http://localhost:8081/models/noop/2.0").json()
    check_description(described, version="2.0", url="noop_2.mar")
    everything = curl(server, "curl http://localhost:8081/models/noop/all").json()
    assert [entry["modelVersion"] for entry in everything] == ["1.0", "2.0"]

    answer = curl(server, "curl -v -X PUT http://localhost:8081/models/noop/2.0/set-default")
    assert status(answer) == 'Default version successfully updated for model "noop" to "2.0"'
    assert curl(server, "curl http://localhost:8081/models/noop").json()[0]["modelVersion"] == "2.0"
    answer = curl(server, "curl -X DELETE http://localhost:8081/models/noop/1.0")
    assert (answer.status_code, status(answer)) == (200, 'Model "noop" unregistered')


def check_description(described: Any, *, version: str, url: str) -> None:  # Any: JSON
    assert described["modelName"] == "noop"
    assert (described["modelVersion"], described["modelUrl"]) == (version, url)
    assert (described["minWorkers"], described["maxWorkers"]) == (3, 3)
    assert (described["batchSize"], described["maxBatchDelay"]) == (1, 100)
    assert described["runtime"] == "python"
    assert len(described["workers"]) == 3
    for worker in described["workers"]:
        assert int(worker["id"]) >= 9000
        assert worker["status"] == "READY"
        assert worker["gpu"] is False
        assert worker["startTime"].endswith("Z")


def test_customized_metadata(server: Fleet) -> None:
    curl(server, 'curl -X POST "http://localhost:8081/models?url=noop-customized.mar&model_name=noop-customized'
                 '&initial_workers=1&synchronous=true"')  # fmt: skip
    for path in ("noop-customized/1.0", "noop-customized", "noop-customized/"):
        (described,) = curl(server, f"curl http://localhost:8081/models/{path}?customized=true").json()
        assert described["customizedMetadata"] == {"data1": "1", "data2": "2"}


def test_listing(server: Fleet) -> None:
    for name in ("a", "b", "noop", "noop_v0.1"):
        curl(server, f'curl -X POST "http://localhost:8081/models?url=noop.mar&model_name={name}"')
    everything = curl(server, 'curl "http://localhost:8081/models"').json()
    assert [entry["modelName"] for entry in everything["models"]] == ["a", "b", "noop", "noop_v0.1"]
    assert curl(server, 'curl "http://localhost:8081/models?limit=2&next_page_token=2"').json() == {
        "nextPageToken": "4",
        "models": [
            {"modelName": "noop", "modelUrl": "noop.mar"},
            {"modelName": "noop_v0.1", "modelUrl": "noop.mar"},
        ],
    }


def test_api_descriptions(unmanaged: Fleet) -> None:
    for port, path in (
        (8080, "/predictions/{model_name}"),
        (8081, "/models/{model_name}"),
        (8082, "/metrics"),
    ):
        document = curl(unmanaged, f"curl -X OPTIONS http://localhost:{port}").json()
        assert document["openapi"].startswith("3.0")
        assert path in document["paths"]


def test_the_model_api_is_off_by_default(unmanaged: Fleet) -> None:
    answer = curl(unmanaged, 'curl -X POST "http://localhost:8081/models?url=noop.mar"')
    assert (answer.status_code, answer.json()) == (405, NOT_ALLOWED)
    answer = curl(unmanaged, "curl -X DELETE http://localhost:8081/models/echo")
    assert (answer.status_code, answer.json()) == (405, NOT_ALLOWED)
    eventually(lambda: unmanaged.predict("echo").status_code == 200)


def test_the_model_api_can_be_switched_on(store: Path, tmp_path: Path) -> None:
    with fleet(tmp_path, store) as server:
        server.serve("--models", "resnet-18=squeezenet1_1.mar", "--enable-model-api")
        answer = curl(
            server, 'curl -X POST "http://localhost:8081/models?url=noop.mar&model_name=squeezenet1_1"'
        )
        assert answer.status_code == 200
        eventually(lambda: len(curl(server, "curl http://localhost:8081/models").json()["models"]) == 2)
        assert curl(server, "curl http://localhost:8081/models").json() == {
            "models": [
                {"modelName": "resnet-18", "modelUrl": "squeezenet1_1.mar"},
                {"modelName": "squeezenet1_1", "modelUrl": "noop.mar"},
            ]
        }
