"""Keys from end to end: made by the broker, read from their file, asked for by every gateway process.

The whole runs over TLS on one port that serves both APIs, which is where TorchServe's keys fit no call.
"""

import contextlib
import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme

from tests.integration.archives import make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration

PROCESSES = 2
#: Connections enough to meet every process.
MANY = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("keys")
    with fleet(folder, make_store(folder / "models", "echo")) as made:
        authority = trustme.CA()
        issued = authority.issue_cert(made.address)
        issued.private_key_pem.write_to_path(str(folder / "key.pem"))
        issued.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
        authority.cert_pem.write_to_path(str(folder / "authority.pem"))
        config = folder / "config.properties"
        config.write_text(
            f"disable_token_authorization=false\nprivate_key_file={folder}/key.pem\n"
            f"certificate_file={folder}/certificate.pem\n"
        )
        made.inference = made.management = f"https://{made.address}:8443"
        made.http = httpx2.Client(
            timeout=30, verify=ssl.create_default_context(cafile=folder / "authority.pem")
        )
        made.serve("--models", "echo.mar", "--gateway-processes", str(PROCESSES), "--ts-config", str(config))
        eventually(lambda: set(predict(made, keys(made)["inference"], MANY)) == {200})
        yield made


def keys(server: Fleet) -> dict[str, str]:
    told = json.loads((server.folder / "key_file.json").read_text())
    return {api: entry["key"] for api, entry in told.items()}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def predict(server: Fleet, key: str, times: int = 1) -> list[int]:
    """The statuses of predictions with this key, each on a connection of its own."""
    url = f"{server.inference}/predictions/echo"
    alone = bearer(key) | {"Connection": "close"}
    return [server.http.post(url, content=b"x", headers=alone).status_code for _ in range(times)]


def test_each_api_of_a_shared_port_has_its_key(server: Fleet) -> None:
    made = keys(server)
    models = f"{server.management}/models/echo/1.0"
    opened = {api: server.http.get(models, headers=bearer(key)).status_code for api, key in made.items()}
    assert opened == {"management": 200, "inference": 400, "API": 400}
    predicted = {api: predict(server, key) for api, key in made.items()}
    assert predicted == {"management": [400], "inference": [200], "API": [400]}


def test_a_renewed_key_opens_at_every_process_and_the_old_one_at_none(server: Fleet) -> None:
    before = keys(server)
    renewal = server.http.get(f"{server.management}/token?type=inference", headers=bearer(before["API"]))
    assert (renewal.status_code, renewal.content) == (200, b"\n")
    after = keys(server)
    assert after["inference"] != before["inference"]
    assert (after["management"], after["API"]) == (before["management"], before["API"])
    eventually(lambda: set(predict(server, after["inference"], MANY)) == {200})
    eventually(lambda: set(predict(server, before["inference"], MANY)) == {400})


def test_the_file_of_keys_is_for_its_owner_alone(server: Fleet) -> None:
    assert Path(server.folder / "key_file.json").stat().st_mode & 0o777 == 0o600


def test_the_document_and_the_probes_need_no_key(server: Fleet) -> None:
    for path in ("/api-description", "/livez", "/readyz"):
        assert server.http.get(server.inference + path).status_code == 200


SECRETS = "inference alice S3dY0uP1ck-for-tests\nmanagement ops aN0therL0n-for-tests\n"


def parts(folder: Path) -> AbstractContextManager[Fleet]:
    (folder / "keys").write_text(SECRETS)
    return fleet(folder, make_store(folder / "models", "echo"))


def asked(made: Fleet, key: str = "", **more: Any) -> httpx2.Response:
    headers = bearer(key) if key else {}
    return made.http.get(f"{made.management}/models", headers=headers, **more)


def test_a_gateway_that_was_told_nothing_asks_for_its_brokers_keys(tmp_path: Path) -> None:
    """It is up before the broker: what it takes in meanwhile waits, and is then refused."""
    with parts(tmp_path) as made, ThreadPoolExecutor(8) as pool:
        made.gateway()
        eventually(lambda: is_listening(made))
        assert f"gateway.started broker={made.broker_address}" in made.output()
        early = [pool.submit(asked, made) for _ in range(4)]
        registration = pool.submit(made.register, "echo.mar")
        made.broker("--keys", "keys")
        assert {one.result().status_code for one in early} <= {400, 503}
        assert registration.result().status_code in (400, 503)
        eventually(lambda: asked(made, "aN0therL0n-for-tests").status_code == 200)
        assert asked(made, "aN0therL0n-for-tests").json() == {"models": []}
        assert asked(made).status_code == 400
        assert asked(made, "S3dY0uP1ck-for-tests").status_code == 400
        assert "gateway.asks_for_keys" in made.output()


def test_a_broker_that_comes_back_with_keys_closes_what_was_open(tmp_path: Path) -> None:
    with parts(tmp_path) as made, ThreadPoolExecutor(8) as pool:
        first = made.broker()
        made.wait_until_up(made.gateway())
        assert asked(made).status_code == 200
        first.terminate()
        first.wait(15)
        eventually(lambda: "gateway.broker_lost" in made.output())
        waiting = [pool.submit(asked, made) for _ in range(4)]
        registration = pool.submit(made.register, "echo.mar")
        made.broker("--keys", "keys")
        assert {one.result().status_code for one in waiting} <= {400, 503}
        assert registration.result().status_code in (400, 503)
        eventually(lambda: asked(made, "aN0therL0n-for-tests").status_code == 200)
        assert asked(made, "aN0therL0n-for-tests").json() == {"models": []}
        assert asked(made).status_code == 400


def is_listening(made: Fleet) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return made.http.get(f"{made.management}/livez").status_code == 200
    return False
