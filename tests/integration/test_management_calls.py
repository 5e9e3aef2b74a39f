"""Calls that TorchServe's clients are known to make of the management API, one after the other.

Every kind of call has its row, with the status that TorchServe answers; archives come from a url, as they
do there, so that what is left in the model store by one call shows in the next.
"""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.archives import make
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration

#: Method, path and query below the management port, status; {from} is where archives come from.
CALLS = """
POST   models?url={from}/net.mar&model_name=net                                        200
POST   models?url={from}/digits.mar&model_name=digits                                  200
POST   models?url={from}/digits.mar&model_name=digits                                  500
POST   models?url={from}/digits.mar&model_name=other                                   500
POST   models                                                                          400
POST   models?url=&model_name=digits                                                   404
POST   models?url={from}/nosuch.mar&model_name=nosuch                                  400
POST   models?url=nosuch.mar                                                           404
GET    models                                                                          200
GET    models?limit=&next_page_token=                                                  200
GET    models?limit=1                                                                  200
GET    models?limit=-1                                                                 200
GET    models?limit=1&next_page_token=1                                                200
GET    models?limit=1&next_page_token=-1                                               200
GET    models?next_page_token=12                                                       200
GET    models/net                                                                      200
GET    models/net/1.0                                                                  200
GET    models/net/all                                                                  200
GET    models/nobody                                                                   404
GET    models/net/0.0                                                                  404
PUT    models/net?min_worker=1                                                         202
PUT    models/net?min_worker=1&synchronous=true                                        200
PUT    models/net/1.0?min_worker=1&synchronous=true                                    200
PUT    models/net/0.0?min_worker=1&synchronous=true                                    404
PUT    models/net?min_worker=1&max_worker=1&synchronous=false                          202
PUT    models/net?min_worker=1&number_gpu=1                                            202
PUT    models/net?number_gpu=10                                                        202
PUT    models/net?number_gpu=-1                                                        202
PUT    models/net?timeout=-1                                                           202
PUT    models/net?timeout=0                                                            202
PUT    models/net?min_worker=1&synchronous=Nan                                         202
PUT    models/net?min_worker=nan&synchronous=nan                                       202
PUT    models/net                                                                      202
PUT    models/nobody?min_worker=1                                                      404
PUT    models/net?min_worker=2&max_worker=1                                            400
PUT    models/net?min_worker=0                                                         202
PUT    models/net?min_worker=-1                                                        500
PUT    models/net?max_worker=-1                                                        400
PUT    models/net/1.0/set-default                                                      200
PUT    models/net/0.0/set-default                                                      404
PUT    models/nobody/1.0/set-default                                                   404
DELETE models/net/0.0                                                                  404
DELETE models/nobody                                                                   404
DELETE models/net                                                                      200
DELETE models/net                                                                      404
DELETE models/digits/?synchronous=true                                                 200
POST   models?url={from}/digits.mar&model_name=digits&runtime=python4                  400
POST   models?url={from}/digits.mar&model_name=digits                                  200
DELETE models/digits/?synchronous=nan                                                  200
POST   models?url={from}/digits.mar&model_name=digits&handler=nosuch                   200
PUT    models/digits?min_worker=1&synchronous=true                                     500
DELETE models/digits/?timeout=true                                                     200
POST   models?url={from}/digits.mar&handler=some/where/image_classifier.py:handle      200
DELETE models/digits/?timeout=true&synchronous=-1                                      200
POST   models?url={from}/net.mar&batch_size=3&initial_workers=3&startup_timeout=0      500
GET    models/net                                                                      404
POST   models?url={from}/net.mar&response_timeout=0                                    200
DELETE models/net                                                                      200
POST   models?url={from}/net.mar&batch_size=2                                          200
DELETE models/net                                                                      200
POST   models?url={from}/net.mar&batch_size=dd&initial_workers=1                       200
DELETE models/net                                                                      200
POST   models?url={from}/net.mar&batch_size=2&initial_workers=1&max_batch_delay=junk   200
DELETE models/net                                                                      200
POST   models?url={from}/net.mar&initial_workers=-1                                    200
DELETE models/net                                                                      200
POST   models?url={from}/net.mar&synchronous=true                                      200
DELETE models/net                                                                      200
POST   models?url={from}/net.mar&synchronous=-1                                        200
DELETE models/net                                                                      200
POST   models?url={from}/net.mar&synchronous=false                                     200
DELETE models/net                                                                      200
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Fleet]:
    store = tmp_path / "models"
    store.mkdir()
    with fleet(tmp_path, store) as made:
        yield made


@pytest.fixture
def origin(server: Fleet, tmp_path: Path) -> Iterator[str]:
    """Serve archives by HTTP, from the test's own address."""
    folder = tmp_path / "origin"
    folder.mkdir()
    for name in ("net", "digits"):
        make(folder, "echo", file_name=f"{name}.mar", model_name=name)
    files = ThreadingHTTPServer((server.address, 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=files.serve_forever)
    thread.start()
    yield f"http://{server.address}:{files.server_port}"
    files.shutdown()
    thread.join()
    files.server_close()


def test_every_known_call_has_torchserves_status(server: Fleet, origin: str) -> None:
    server.serve("--enable-model-api", "--allow-private-urls")
    differing = []
    for line in CALLS.strip().splitlines():
        method, path, status = line.split()
        answer = server.http.request(method, f"{server.management}/{path.replace('{from}', origin)}")
        if answer.status_code != int(status):
            differing.append(f"{method} {path}: {answer.status_code}, not {status}: {answer.text}")
    assert not differing, "\n".join(differing)
    # A thread deletes what was fetched.
    eventually(lambda: not list((server.folder / "models").iterdir()))
