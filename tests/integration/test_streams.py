"""Answers in parts, from the handler to the client, through real processes."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import httpx2
import pytest

from tests.integration.archives import make, make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration

STREAMS_HANDLER = """
import os, sys, time
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    count, mode = (bytes(data[0]["body"]).decode() + " ").split(" ")[:2]
    context.set_response_content_type(0, "text/event-stream")
    for number in range(int(count)):
        send_intermediate_predict_response([f"part {number};"], context.request_ids, "", 200, context)
        print("sent part", number)
        time.sleep(float(mode.removeprefix("slow") or "0") if mode.startswith("slow") else float("0"))
    if mode == "raise":
        raise ValueError("no more")
    if mode == "die":
        open(GATE).read()
        os._exit(3)
    if mode == "vanish":
        os._exit(3)
    if mode == "exit":
        sys.exit(3)
    return ["last"]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("streams")
    store = make_store(folder / "store")
    os.mkfifo(folder / "gate")
    make(store, "streams", code=STREAMS_HANDLER.replace("GATE", repr(str(folder / "gate"))))
    with fleet(folder, store) as made:
        made.serve("--enable-model-api")
        assert made.register("streams.mar", initial_workers=1, synchronous=True).status_code == 200
        yield made


def stream(served: Fleet, body: str) -> AbstractContextManager[httpx2.Response]:
    url = f"{served.inference}/predictions/streams"
    return served.http.stream("POST", url, content=body.encode())


def test_parts_come_one_by_one_in_a_chunked_answer(served: Fleet) -> None:
    with served.http.stream(
        "POST", f"{served.inference}/predictions/streams", content=b"3 slow0.2"
    ) as answer:
        parts = list(answer.iter_raw())
    assert parts == [b"part 0;", b"part 1;", b"part 2;", b"last"]
    assert answer.status_code == 200
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["ts_stream_next"] == "true"
    assert "content-length" not in answer.headers


def test_without_parts_the_answer_is_an_ordinary_one(served: Fleet) -> None:
    answer = served.predict("streams", b"0")
    assert (answer.status_code, answer.text) == (200, "last")
    assert "transfer-encoding" not in answer.headers
    assert "ts_stream_next" not in answer.headers


def parts_until_cut(answer: httpx2.Response, on_part: Callable[[bytes], None]) -> None:
    """Read to the end of what comes; it is handed over as it comes, with all that came before."""
    found = b""
    for part in answer.iter_raw():
        found += part
        on_part(found)


@pytest.mark.parametrize("ending", ["raise", "die", "exit"])
def test_what_ends_a_stream_early_cuts_the_connection(served: Fleet, ending: str) -> None:
    found: list[bytes] = []
    gate = served.folder / "gate"

    def on_part(all_of_it: bytes) -> None:
        found[:] = [all_of_it]
        if ending == "die" and all_of_it == b"part 0;part 1;":
            gate.open("w").close()  # now it has nothing on its way any more

    with stream(served, f"2 {ending}") as answer, pytest.raises(httpx2.RemoteProtocolError):
        parts_until_cut(answer, on_part)
    assert b"".join(found) == b"part 0;part 1;"
    eventually(lambda: served.ready("streams"))
    assert served.predict("streams", b"1").content == b"part 0;last"


def test_what_a_worker_sends_right_before_it_dies_may_be_lost_and_never_looks_complete(served: Fleet) -> None:
    found = [b""]
    with stream(served, "2 vanish") as answer:
        if answer.status_code == 200:
            with pytest.raises(httpx2.RemoteProtocolError):
                parts_until_cut(answer, found.append)
            assert b"part 0;part 1;".startswith(found[-1])
        else:  # nothing of it had arrived, also the second time
            assert answer.status_code in (500, 503)
    eventually(lambda: served.ready("streams"))
    assert served.predict("streams", b"1").content == b"part 0;last"


def test_before_the_first_part_a_failure_is_an_ordinary_error(served: Fleet) -> None:
    answer = served.predict("streams", b"0 raise")
    assert answer.status_code == 503
    assert answer.json()["message"] == "Prediction failed"


def test_a_client_that_leaves_in_the_middle_leaves_the_worker_to_others(served: Fleet) -> None:
    with served.http.stream(
        "POST", f"{served.inference}/predictions/streams", content=b"5 slow0.2"
    ) as answer:
        assert next(answer.iter_raw()) == b"part 0;"
    assert served.predict("streams", b"1").content == b"part 0;last"
