"""Continuous batching, async handlers, sequences and requirements, through real processes."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.archives import make, make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually
from tests.worker.wheels import write_wheel

pytestmark = pytest.mark.integration

HANDLERS = {
    # Each request takes as many calls as its body says, and tells of each how many shared it.
    "continuous": (
        "continuousBatching: true\nbatchSize: 8\n",
        """
import time
left = {}

def handle(data, context):
    if data is None:
        return None
    time.sleep(float("0.05"))
    ids = list(context.request_ids.values())
    for request_id, row in zip(ids, data):
        if request_id not in left:
            left[request_id] = int(bytes(row["body"]))
        left[request_id] -= 1
    context.stopping_criteria = [lambda _, request_id=request_id: left[request_id] <= 0 for request_id in ids]
    return [f"{len(ids)};" for _ in ids]
""",
    ),
    # Nobody is answered before everybody is here.
    "async": (
        "asyncCommunication: true\nbatchSize: 10\nmaxBatchDelay: 10\n",
        """
import asyncio

class Handler:
    def initialize(self, context):
        self.here, self.all_here = 0, asyncio.Event()

    async def handle(self, data, context):
        self.here += 1
        if self.here == 10:
            self.all_here.set()
        await self.all_here.wait()
        return [bytes(data[0]["body"])]
""",
    ),
    "sequence": (
        "sequenceBatching: true\nsequenceMaxIdleMSec: 5000\nmaxNumSequence: 4\nmaxSequenceJobQueueSize: 10\n"
        "batchSize: 4\nmaxBatchDelay: 20\n",
        """
sums = {}

def handle(data, context):
    if data is None:
        return None
    answers = []
    for index, row in enumerate(data):
        sequence = context.get_sequence_id(index)
        context.set_response_header(index, context.header_key_sequence_id, sequence)
        if context.get_request_header(index, context.header_key_sequence_start) == "true":
            sums[sequence] = 0
        sums[sequence] += int(bytes(row["body"]))
        answers.append(str(sums[sequence]))
    return answers
""",
    ),
    "requires": (
        "",
        """
import tiny_one

def handle(data, context):
    return None if data is None else [tiny_one.WORD] * len(data)
""",
    ),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("modes")
    store = make_store(folder / "store")
    write_wheel(folder / "wheels", "tiny_one", "1.0", "WORD = 'installed'\n")
    requirements = f"--no-index\n--find-links {folder}/wheels\ntiny_one\n"
    for name, (config, code) in HANDLERS.items():
        # Each that requires something costs an installer, and an interpreter that imports torch, of its own.
        make(store, name, code=code, config=config, requirements=requirements if name == "requires" else "")
    properties = folder / "config.properties"
    properties.write_text("install_py_dep_per_model=true\n")
    with fleet(folder, store) as made:
        made.serve("--enable-model-api", "--ts-config", str(properties))
        yield made


def register(served: Fleet, name: str) -> None:
    answer = served.register(f"{name}.mar", initial_workers=1, synchronous=True)
    assert answer.status_code == 200, answer.text


def logs(served: Fleet) -> str:
    return "".join(file.read_text() for file in served.folder.rglob("*.log"))


def test_requests_join_a_continuous_batch_while_it_runs(served: Fleet) -> None:
    register(served, "continuous")
    url = f"{served.inference}/predictions/continuous"
    with served.http.stream("POST", url, content=b"40") as first:
        parts = first.iter_raw()
        assert next(parts) == b"1;"
        assert served.predict("continuous", b"1").content == b"2;"
        rest = [next(parts) for _ in range(5)]
    assert first.headers["transfer-encoding"] == "chunked"
    assert b"1;" in rest or b"2;" in rest
    # The client has gone, and its request leaves with it.
    eventually(lambda: "Connection to client got closed; Removing job:" in logs(served))
    assert served.predict("continuous", b"1").content == b"1;"


def test_an_async_handler_has_as_many_requests_as_its_batch_size_at_the_same_time(served: Fleet) -> None:
    register(served, "async")
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: served.predict("async", b"%d" % n), range(10)))
    assert [answer.content for answer in answers] == [b"%d" % n for n in range(10)]


def test_a_sequence_stays_with_its_worker_and_starts_once(served: Fleet) -> None:
    register(served, "sequence")
    assert served.scale("sequence", min_worker=2, max_worker=2, synchronous=True).status_code == 200
    results: dict[int, list[str]] = {}

    def run(step: int) -> None:
        first = served.predict("sequence", b"%d" % step)
        name = first.headers["ts_request_sequence_id"]
        answers = [first.text]
        for factor in (2, 3, 4):
            again = served.http.post(
                f"{served.inference}/predictions/sequence",
                content=b"%d" % (step * factor),
                headers={"ts_request_sequence_id": name},
            )
            answers.append(again.text)
        results[step] = answers

    threads = [threading.Thread(target=run, args=(step,)) for step in (1, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {1: ["1", "3", "6", "10"], 10: ["10", "30", "60", "100"]}


def test_what_an_archive_requires_is_there_when_it_serves(served: Fleet) -> None:
    register(served, "requires")
    assert served.predict("requires").text == "installed"


def test_a_model_whose_requirements_fail_is_refused_and_not_registered(served: Fleet) -> None:
    assert served.store is not None
    code = "def handle(data, context): return data\n"
    make(served.store, "broken", code=code, requirements="--no-index\nnobody_has_this\n")
    for workers, synchronous in ((0, False), (1, False), (1, True)):
        answer = served.register("broken.mar", initial_workers=workers, synchronous=synchronous)
        assert answer.status_code == 400
        assert answer.json()["message"] == "Custom pip package installation failed for model broken"
    # The installer's own words are where a person looks for them.
    assert "Could not find a version that satisfies the requirement nobody_has_this" in logs(served)
    assert served.http.get(f"{served.management}/models/broken").status_code == 404
