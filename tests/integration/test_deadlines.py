"""Deadlines and clients that leave, through real processes: the handler itself sees that nobody waits."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.integration.archives import make, make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration

#: Works until nobody waits, and says afterwards how often that came to be.
HANDLER = """
import time
from pathlib import Path

stopped = 0

def handle(data, context):
    global stopped
    if data is None:
        return None
    begun = context.get_request_header(0, "x-begun")
    if begun is None:
        return [f"{stopped} {context.remaining_ms()}"]
    Path(begun).touch()
    while not context.is_cancelled():
        time.sleep(float("0.01"))
    stopped += 1
    return ["nobody gets this"]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("deadlines")
    store = make_store(folder / "store")
    make(store, "working", code=HANDLER, config="minWorkers: 1\nmaxWorkers: 1\n")
    with fleet(folder, store) as made:
        made.serve("--models", "working=working.mar")
        yield made


def stopped(served: Fleet) -> int:
    """Ask the one worker how often its handler found that nobody waited: it answers once it is free."""
    return int(served.predict("working").text.split()[0])


def test_at_its_deadline_a_client_hears_it_and_the_handler_stops(served: Fleet, tmp_path: Path) -> None:
    before = stopped(served)
    headers = {"x-request-timeout-ms": "700", "x-begun": str(tmp_path / "begun")}
    answer = served.http.post(f"{served.inference}/predictions/working", headers=headers)
    assert answer.status_code == 504
    assert answer.json() == {
        "code": 504,
        "type": "RequestTimeoutException",
        "message": "No answer within the request's x-request-timeout-ms",
        "details": "a worker was still at it",
    }
    assert (tmp_path / "begun").exists()
    assert stopped(served) == before + 1


def test_the_handler_of_a_client_that_leaves_stops_and_its_worker_is_the_next_ones(
    served: Fleet, tmp_path: Path
) -> None:
    before = stopped(served)
    begun = tmp_path / "begun"
    host = httpx2.URL(served.inference)
    with socket.create_connection((host.host, host.port or 80)) as client:
        head = f"POST /predictions/working HTTP/1.1\r\nHost: localhost\r\nx-begun: {begun}\r\n"
        client.sendall(head.encode() + b"Content-Length: 0\r\n\r\n")
        eventually(begun.exists)
    assert stopped(served) == before + 1


def test_a_handler_knows_how_long_its_client_waits(served: Fleet) -> None:
    url = f"{served.inference}/predictions/working"
    left_ms = served.http.post(url, headers={"x-request-timeout-ms": "60000"}).text.split()[1]
    assert 50_000 < int(left_ms) <= 60_000
    assert served.http.post(url).text.split()[1] == "None"


def test_a_deadline_that_is_none_is_refused(served: Fleet) -> None:
    answer = served.http.post(
        f"{served.inference}/predictions/working", headers={"x-request-timeout-ms": "soon"}
    )
    assert (answer.status_code, answer.json()["type"]) == (400, "BadRequestException")
