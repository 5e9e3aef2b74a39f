"""Bodies of hundreds of megabytes, from the client to the handler."""

import http.client
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.archives import make
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration

MEGABYTE = 1 << 20
SIZE = 270 * MEGABYTE
WEIGHS = """
def handle(data, context):
    return data and [{name: [len(value), value[-1]] for name, value in row.items()} for row in data]
"""
REPEATS = """
def handle(data, context):
    return data and [b"x" * int(row["body"]) for row in data]
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Fleet]:
    store = tmp_path / "models"
    store.mkdir()
    make(store, "weighs", code=WEIGHS)
    make(store, "repeats", code=REPEATS)
    config = tmp_path / "config.properties"
    config.write_text(
        "max_request_size=1000000000\nmax_response_size=1000000000\ndefault_workers_per_model=1\n"
    )
    with fleet(tmp_path, store) as made:
        made.serve("--models", "all", "--ts-config", str(config))
        eventually(lambda: made.ready("weighs") and made.ready("repeats"))
        yield made


def post(server: Fleet, pieces: Iterator[bytes], **headers: str) -> Any:  # Any: JSON
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(server.address, 8080, timeout=60)
    connection.request("POST", "/predictions/weighs", pieces, sent)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    assert response.status == 200, answer
    return json.loads(answer)


def pieces(last: bytes) -> Iterator[bytes]:
    for _ in range(SIZE // MEGABYTE - 1):
        yield bytes(MEGABYTE)
    yield bytes(MEGABYTE - len(last)) + last


@pytest.mark.timeout(120)
def test_what_max_request_size_allows_reaches_the_handler(server: Fleet) -> None:
    # Without a length it is chunked.
    assert post(server, pieces(b"\x07")) == {"body": [SIZE, 7]}
    begin = b'--edge\r\nContent-Disposition: form-data; name="large"; filename="x"\r\n\r\n'
    form = itertools.chain([begin], pieces(b"\x08"), [b"\r\n--edge--\r\n"])
    length = str(len(begin) + SIZE + len(b"\r\n--edge--\r\n"))
    content_type = "multipart/form-data; boundary=edge"
    assert post(server, form, content_type=content_type, content_length=length) == {"large": [SIZE, 8]}


@pytest.mark.timeout(120)
def test_what_max_response_size_allows_reaches_the_client(server: Fleet) -> None:
    answer = server.predict("repeats", str(SIZE).encode(), content_type="text/plain")
    assert (answer.status_code, len(answer.content)) == (200, SIZE)
