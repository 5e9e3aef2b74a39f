"""Workers of several processes: a model that is spread over them answers as one, and ends as one."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.archives import make
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually

pytestmark = pytest.mark.integration

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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Fleet]:
    store = tmp_path / "models"
    store.mkdir()
    make(store, "sums", code=SUMS, config=CONFIG)
    make(store, "one_fails", code=ONE_FAILS, config=CONFIG)
    with fleet(tmp_path, store) as made:
        made.serve("--enable-model-api")
        yield made


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
    eventually(lambda: not any(map(psutil.pid_exists, before)), within_s=10)
    eventually(lambda: server.predict("sums", b"2").text == "6.0", within_s=20)
    after = pids(server)
    server.scale("sums", min_worker=0, max_worker=0, synchronous=True)
    eventually(lambda: not any(map(psutil.pid_exists, after)), within_s=10)


def test_the_reason_of_a_process_that_cannot_load_is_the_workers(server: Fleet) -> None:
    refused = server.register("one_fails.mar", initial_workers=1)
    assert refused.status_code == 500
    assert "rank 1 has no weights" in refused.json()["details"]
