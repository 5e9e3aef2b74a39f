"""Workers of several processes: a model that is spread over them answers as one, and ends as one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.integration.archives import make
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("preloaded_torch")]

CONFIG = "parallelType: tp\ndeviceType: cpu\ntorchrun: {nproc-per-node: 3}\n"
SUMS = """
import os, sys
import torch

class Sums:
    def initialize(self, context):
        torch.distributed.init_process_group("gloo")
        self.context = context

    def handle(self, data, context):
        text = bytes(data[0]["body"]).decode()
        if text == "pids":
            pids = [None] * 3
            torch.distributed.all_gather_object(pids, os.getpid())
            return [{"pids": pids, "rank": os.environ["RANK"]}]
        if text == "end" and os.environ["LOCAL_RANK"] == "2":
            os._exit(3)
        value = torch.tensor([float(text) if text != "end" else 0.0])
        torch.distributed.all_reduce(value)
        return [str(value.item())]
"""
# Each request takes as many calls as its body says; each call is shared by all processes.
GENERATES = """
import os, time
import torch

class Generates:
    def initialize(self, context):
        torch.distributed.init_process_group("gloo")
        self.is_first = os.environ["RANK"] == "0"
        self.left = {}

    def handle(self, data, context):
        if context.get_request_header(0, "describe"):
            pids = [None] * 3
            torch.distributed.all_gather_object(pids, os.getpid())
            return [{"pids": pids}]
        time.sleep(float("0.02"))
        ids = list(context.request_ids.values())
        left = {name: int(bytes(row["body"])) if row else self.left[name] for name, row in zip(ids, data)}
        self.left = {name: count - 1 for name, count in left.items()}
        values = torch.tensor([float(self.left[name]) for name in ids])
        torch.distributed.all_reduce(values)
        # The others would go on for ever.
        ends = lambda name: self.is_first and self.left[name] <= 0
        context.stopping_criteria = [lambda _, name=name: ends(name) for name in ids]
        return [f"{len(ids)} {int(value)};" for value in values]
"""
# The second process is a stage of a pipeline, which works for the first beside its main thread.
STAGES = """
import os, threading
import torch
from torch import distributed

class Stages:
    def initialize(self, context):
        distributed.init_process_group("gloo")
        self.calls = 0
        if os.environ["RANK"] == "1":
            threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            value = torch.zeros(1)
            distributed.recv(value, src=0)
            distributed.send(value * 2 + 1000 * self.calls, dst=0)

    def handle(self, data, context):
        self.calls += 1
        if os.environ["RANK"] == "0":
            value = torch.tensor([float(bytes(data[0]["body"]))])
            distributed.send(value, dst=1)
            distributed.recv(value, src=1)
            return [str(value.item())]
        return ["nobody hears this"]
"""
ONE_FAILS = """
import os
import torch

class OneFails:
    def initialize(self, context):
        if os.environ["RANK"] == "1":
            raise ValueError("rank 1 has no weights")
        torch.distributed.init_process_group("gloo")

    def handle(self, data, context):
        return data
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("parallel")
    store = folder / "models"
    store.mkdir()
    make(store, "sums", code=SUMS, config=CONFIG)
    make(store, "one_fails", code=ONE_FAILS, config=CONFIG)
    make(store, "generates", code=GENERATES, config=f"{CONFIG}continuousBatching: true\nbatchSize: 8\n")
    make(store, "stages", code=STAGES, config="parallelType: pp\nparallelLevel: 2\ndeviceType: cpu\n")
    with fleet(folder, store) as made:
        made.serve("--enable-model-api")
        yield made


@pytest.fixture
def server(serving: Fleet) -> Iterator[Fleet]:
    """A server without models, for a test that registers some."""
    yield serving
    serving.unregister_all()


def pids(server: Fleet) -> list[int]:
    return list(server.predict("sums", b"pids").json()["pids"])


def test_every_process_runs_every_batch_and_the_first_answers(server: Fleet) -> None:
    assert server.register("sums.mar", initial_workers=1).status_code == 200
    described = server.describe("sums")
    assert (described["parallelType"], described["parallelLevel"]) == ("tp", 3)
    assert server.predict("sums", b"14").text == "42.0"
    answer = server.predict("sums", b"pids").json()
    assert len(set(answer["pids"])) == 3
    assert (answer["rank"], answer["pids"][0]) == ("0", described["workers"][0]["pid"])
    large = server.predict("sums", b"0" * 1_000_000 + b"1")
    assert large.text == "3.0"


def test_the_processes_of_a_worker_end_together_and_come_back_together(server: Fleet) -> None:
    server.register("sums.mar", initial_workers=1)
    before = pids(server)
    failed = server.predict("sums", b"end")
    assert (failed.status_code, failed.json()["message"]) == (500, "Worker died.")
    eventually(lambda: not any(map(psutil.pid_exists, before)))
    eventually(lambda: server.predict("sums", b"2").text == "6.0")
    after = pids(server)
    server.scale("sums", min_worker=0, max_worker=0, synchronous=True)
    eventually(lambda: not any(map(psutil.pid_exists, after)))


def test_requests_join_and_leave_a_continuous_batch_of_several_processes(server: Fleet) -> None:
    server.register("generates.mar", initial_workers=1)
    assert server.predict("generates", b"3").text == "1 6;1 3;1 0;"
    pids = server.describe("generates", customized=True)["customizedMetadata"]["pids"]
    assert len(set(pids)) == 3
    with server.http.stream("POST", f"{server.inference}/predictions/generates", content=b"500") as first:
        parts = first.iter_raw()
        assert next(parts) == b"1 1497;"
        with ThreadPoolExecutor(4) as pool:
            texts = list(pool.map(lambda n: server.predict("generates", b"%d" % n).text, (1, 2, 3, 4)))
        described = server.describe("generates", customized=True)
        assert described["customizedMetadata"]["pids"] == pids
    sums = [[int(part.split()[1]) for part in text.split(";")[:-1]] for text in texts]
    assert sums == [[0], [3, 0], [6, 3, 0], [9, 6, 3, 0]]
    assert not texts[0].startswith("1 ")
    # The first one's client has gone, and its request has left all processes.
    eventually(lambda: server.predict("generates", b"2").text == "1 3;1 0;")


def test_the_other_stages_of_a_pipeline_get_no_requests(server: Fleet) -> None:
    server.register("stages.mar", initial_workers=1)
    answers = [server.predict("stages", b"%d" % n).text for n in range(20)]
    assert answers == [str(2.0 * n) for n in range(20)]


def test_the_reason_of_a_process_that_cannot_load_is_the_workers(server: Fleet) -> None:
    refused = server.register("one_fails.mar", initial_workers=1)
    assert refused.status_code == 500
    assert "rank 1 has no weights" in refused.json()["details"]


def test_the_processes_of_a_worker_are_warmed_together(server: Fleet) -> None:
    assert server.store is not None
    make(server.store, "warmed", code=SUMS, config=CONFIG + "warmup: [{body: '1'}, {body: '2'}]\n")
    answer = server.register("warmed.mar", initial_workers=1, synchronous=True)
    assert answer.status_code == 200, answer.text
    # Had the others not run them, this sum would be one of theirs.
    assert server.predict("warmed", b"5").text == "15.0"
    counted = [line for line in server.http.get(f"{server.metrics}/metrics").text.splitlines()
               if line.startswith("ts_inference_requests_total{") and '"warmed"' in line]  # fmt: skip
    assert [line.rsplit(" ", 1)[1] for line in counted] == ["1.0"]
