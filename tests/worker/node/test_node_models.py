"""What models may ask of a real node and its workers: streams, other ways to batch, packages, metrics."""

import itertools
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.support import eventually
from tests.worker.models import ECHO
from tests.worker.nodes import Fleet, Loaded, answers, load, order, submit
from tests.worker.wheels import write_wheel
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m

pytestmark = pytest.mark.integration

CONFIG = "config.yaml"
STREAMS = """
import time
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    for number in range(int(data[0]["body"])):
        parts = [f"{number};"] * len(data)
        send_intermediate_predict_response(parts, context.request_ids, "", 200, context)
        time.sleep(float("0.02"))
    return ["last"] * len(data)
"""
COUNTS_DOWN = """
import time
left = {}

def handle(data, context):
    if data is None:
        return None
    time.sleep(float("0.01"))
    ids = list(context.request_ids.values())
    for request_id, row in zip(ids, data):
        left.setdefault(request_id, int(row.get("body") or 0))
        left[request_id] -= 1
    context.stopping_criteria = [lambda _, request_id=request_id: left[request_id] <= 0 for request_id in ids]
    return [f"{len(ids)} {left[request_id]};" for request_id in ids]
"""
WAITS = """
import asyncio, os, signal

async def handle(data, context):
    if data is None:
        return None
    stop = signal.getsignal(signal.SIGTERM)

    def told(*args):
        stop(*args)
        print("was told to stop")

    signal.signal(signal.SIGTERM, told)
    print("has begun")
    while not os.path.exists(data[0]["body"]):
        await asyncio.sleep(float("0.01"))
    return ["finished"]
"""
MEETS = """
import asyncio

class Handler:
    def initialize(self, context):
        self.loop = asyncio.get_event_loop()
        self.here = 0
        self.all_here = asyncio.Event()

    async def handle(self, data, context):
        assert asyncio.get_running_loop() is self.loop
        self.here += 1
        if self.here == int(data[0]["body"]):
            self.all_here.set()
        await self.all_here.wait()
        return [context.get_request_id()]
"""


def load_async(fleet: Fleet, code: str) -> Loaded:
    """Start a worker whose handler takes up to three requests side by side."""
    files, manifest = {CONFIG: "asyncCommunication: true\n"}, {"configFile": CONFIG}
    return load(fleet, code, files=files, manifest=manifest, batch_size=3)


def parts(fleet: Fleet, lease: int = 1) -> tuple[list[bytes], m.Completed]:
    """Wait for a lease's answer; return the parts before it, and it."""
    found: list[bytes] = []
    while True:
        message, item = fleet.broker.expect(
            m.Message, lambda message: getattr(message, "lease", None) == lease
        )
        if isinstance(message, m.Completed):
            return found, message
        assert isinstance(message, m.Streamed)
        assert message.number == len(found)
        for part in message.items:
            response, body = codec.unpack_response(part.meta, item.frames)
            assert dict(response.headers)["ts_stream_next"] == "true"
            found.append(bytes(body))


def test_parts_are_streamed_in_order_and_numbered(joined: Fleet) -> None:
    loaded = load(joined, STREAMS)
    submit(joined, loaded.worker, b"3")
    found, completed = parts(joined)
    assert found == [b"0;", b"1;", b"2;"]
    assert completed.streamed == 3
    response, body = codec.unpack_response(completed.items[0].meta, [])
    assert (response.error, bytes(body)) == (None, b"last")
    submit(joined, loaded.worker, b"0", lease=2)
    assert parts(joined, 2)[0] == []


def test_a_stream_whose_client_has_gone_stops_being_sent(joined: Fleet) -> None:
    loaded = load(joined, STREAMS)
    submit(joined, loaded.worker, b"200")
    joined.broker.until(lambda: joined.broker.all(m.Streamed))
    joined.broker.send(loaded.worker, m.CancelJobs(1, (0,)))
    found, completed = parts(joined)
    assert 1 <= len(found) < 200
    assert completed.streamed == len(found)


def test_a_continuous_batch_merges_leases_into_calls(joined: Fleet) -> None:
    loaded = load(
        joined,
        COUNTS_DOWN,
        files={CONFIG: "continuousBatching: true\n"},
        manifest={"configFile": CONFIG},
        batch_size=4,
    )
    submit(joined, loaded.worker, b"2000", lease=1)
    joined.broker.until(lambda: len(joined.broker.all(m.Streamed)) >= 3)
    submit(joined, loaded.worker, b"1", lease=2)
    completed, _ = joined.broker.expect(m.Completed)
    assert completed.lease == 2
    _, body = codec.unpack_response(completed.items[0].meta, [])
    assert bytes(body) == b"2 0;"
    beat, _ = joined.broker.expect(m.WorkerBeat, lambda beat: bool(beat.leases))
    assert beat.leases == (1,)
    joined.broker.send(loaded.worker, m.CancelJobs(1, (0,)))
    completed, _ = joined.broker.expect(m.Completed)
    assert completed.lease == 1
    eventually(lambda: "Connection to client got closed; Removing job: r1-0" in joined.node_log())


def test_an_async_handler_runs_leases_side_by_side_while_the_worker_beats(joined: Fleet) -> None:
    loaded = load_async(joined, MEETS)
    for lease in (1, 2):
        submit(joined, loaded.worker, b"3", lease=lease)
    beat, _ = joined.broker.expect(m.WorkerBeat, lambda beat: len(beat.leases) == 2)
    assert beat.leases == (1, 2)
    submit(joined, loaded.worker, b"3", lease=3)
    joined.broker.until(lambda: len(joined.broker.all(m.Completed)) == 3)
    assert {completed.lease for completed in joined.broker.all(m.Completed)} == {1, 2, 3}
    assert answers(joined, 2)[0].error is None


def test_an_async_worker_that_is_stopped_finishes_what_runs_and_hands_back_the_rest(joined: Fleet) -> None:
    gate = joined.folder / "gate"
    loaded = load_async(joined, WAITS)
    submit(joined, loaded.worker, str(gate).encode())
    joined.broker.until(lambda: joined.has_printed(loaded.hello.worker_id, "has begun"))
    joined.broker.send(loaded.node, m.StopWorker(loaded.hello.worker_id, False, "no longer wanted"))
    joined.broker.until(lambda: joined.has_printed(loaded.hello.worker_id, "was told to stop"))
    submit(joined, loaded.worker, str(gate).encode(), lease=2)
    joined.broker.heard.clear()
    joined.broker.send(loaded.worker, m.IntroduceYourself())
    joined.broker.expect(m.HelloWorker)  # so it has the second lease, and doesn't take it
    assert joined.broker.expect(m.WorkerBeat)[0].leases == (1,)
    gate.touch()
    assert answers(joined)[0].body == b"finished"
    joined.broker.until(lambda: joined.broker.all(m.WorkerExited))
    said = [item.message for item in joined.broker.heard if item.peer == loaded.worker]
    assert [type(message) for message in said if not isinstance(message, m.Measured)] == [m.Bye]
    [exited] = joined.broker.all(m.WorkerExited)
    assert (exited.exit_code, exited.reason) == (0, "no longer wanted")


def test_what_an_async_handler_measures_holds_its_answer_up_for_no_beat(fleet: Fleet) -> None:
    code = """
async def handle(data, context):
    if data is None:
        return None
    context.metrics.add_counter("Calls", 1)
    return ["x"]
"""
    fleet.broker.beat_interval_s = fleet.broker.peer_timeout_s = 600
    loaded = load_async(fleet, code)
    submit(fleet, loaded.worker, b"x")
    measured, _ = fleet.broker.expect(m.Measured)
    assert "Calls" in [point.name for point in measured.points]
    assert answers(fleet)[0].body == b"x"


def test_a_worker_with_something_to_tell_waits_for_its_broker_without_spinning(joined: Fleet) -> None:
    code = """
import os, time
def handle(data, context):
    if data is None:
        return None
    print("has begun")
    while not os.path.exists(data[0]["body"]):
        time.sleep(float("0.01"))
    context.metrics.add_counter("Calls", 1)
    return ["x"]
"""
    gate = joined.folder / "count gate"
    loaded = load(joined, code)
    submit(joined, loaded.worker, str(gate).encode())
    joined.broker.until(lambda: joined.has_printed(loaded.hello.worker_id, "has begun"))
    joined.broker.welcomes_workers = False
    try:
        joined.broker.send(loaded.worker, m.IntroduceYourself())
        gate.touch()
        joined.broker.expect(m.HelloWorker)
        process = psutil.Process(loaded.hello.pid)
        before = sum(process.cpu_times()[:2])
        # Half a second and more, of which a worker that spins takes all that it gets.
        for _ in range(3):
            joined.broker.expect(m.HelloWorker)
        assert sum(process.cpu_times()[:2]) - before < 0.1
    finally:
        joined.broker.welcomes_workers = True


def test_what_a_handler_measures_is_there_before_its_answer_and_what_it_prints_follows(joined: Fleet) -> None:
    code = """
def handle(data, context):
    if data is None:
        context.metrics.add_counter("Loads", 1)
        return None
    context.metrics.add_counter("Calls", 2)
    print("[METRICS]Printed.Count:3.0|#Level:Model|#type:COUNTER|#hostname:h,1700000000,id")
    return ["x"]
"""
    loaded = load(joined, code)
    names: list[str] = []
    submit(joined, loaded.worker, b"x")
    while not names or "Calls" not in names:
        names += [point.name for point in joined.broker.expect(m.Measured)[0].points]
        assert not joined.broker.all(m.NodeMeasured) or "Loads" in names
    assert names[0] == "Loads"
    assert "PredictionTime" in names
    answers(joined)
    printed, _ = joined.broker.expect(m.NodeMeasured)
    assert [(point.name, point.value, point.request_ids) for point in printed.points] == [
        ("Printed", 3.0, ("id",))
    ]
    assert "[METRICS]" not in joined.node_log()


def test_the_time_of_a_prediction_is_told_before_its_answer(joined: Fleet) -> None:
    loaded = load(joined)
    submit(joined, loaded.worker, b"x")
    joined.broker.until(lambda: joined.broker.all(m.Completed))
    told = [heard.message for heard in joined.broker.heard]
    told = [message for message in told if isinstance(message, m.Measured | m.Completed)]
    assert isinstance(told[0], m.Measured)
    assert [point.name for point in told[0].points] == ["PredictionTime"]


def test_workers_have_torchserves_environment_but_not_what_is_blacklisted(fleet: Fleet) -> None:
    code = """
import os, sys
def handle(data, context):
    if data is not None:
        names = ("SECRET_KEY", "SECRET_KEYRING", "TS_DECODE_INPUT_REQUEST", "TS_REQUEST_SEQUENCE_ID")
        return [{"cwd": os.getcwd(), "path": os.environ["PYTHONPATH"],
                 "dir": context.system_properties["model_dir"], "header": context.header_key_sequence_id,
                 **{name: os.environ.get(name) for name in names}}]
"""
    fleet.variables = {"SECRET_KEY": "s", "SECRET_KEYRING": "kept"}
    fleet.start_node(blacklist_env_vars="SECRET_KEY|OTHER.*", header_key_sequence_id="x-sequence")
    fleet.join()
    loaded = load(fleet, code, decode_input_request=False)
    submit(fleet, loaded.worker, b"x")
    body = answers(fleet)[0].body
    assert isinstance(body, bytes)
    found = json.loads(body)
    assert found["cwd"] == found["dir"]
    assert found["path"].endswith(found["dir"])
    assert (found["SECRET_KEY"], found["SECRET_KEYRING"]) == (None, "kept")
    assert found["TS_DECODE_INPUT_REQUEST"] == "false"
    assert found["TS_REQUEST_SEQUENCE_ID"] == found["header"] == "x-sequence"


@pytest.fixture(scope="module")
def node_with_gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("gpus"))
    fleet.variables = {"CUDA_VISIBLE_DEVICES": "GPU-aa, 5,GPU-cc"}
    fleet.start_node(devices=("cpu",))
    fleet.join()
    yield fleet
    fleet.close()


@pytest.fixture
def with_gpus(node_with_gpus: Fleet) -> Iterator[Fleet]:
    """A fleet whose node has been given three GPUs, which are not there."""
    node_with_gpus.beat()  # while another fleet's test ran, this broker seemed to be away
    yield node_with_gpus
    node_with_gpus.stop_workers()


def test_the_processes_of_a_worker_see_its_own_of_the_gpus_that_its_node_may_use(with_gpus: Fleet) -> None:
    code = """
import os
def handle(data, context):
    if data is not None:
        return [os.environ["CUDA_VISIBLE_DEVICES"]]
"""
    files, manifest = {CONFIG: "parallelType: pp\ntorchrun: {nproc-per-node: 2}\n"}, {"configFile": CONFIG}
    loaded = load(with_gpus, code, files=files, manifest=manifest, gpu_id=1, gpu_ids=(1, 2))
    submit(with_gpus, loaded.worker, b"x")
    assert answers(with_gpus)[0].body == b"5,GPU-cc"


VISIBLE = """
import os
def handle(data, context):
    if data is not None:
        names = ("CUDA_VISIBLE_DEVICES", "RANK", "WORLD_SIZE")
        return [[context.system_properties["gpu_id"], *map(os.environ.get, names)]]
"""


@pytest.mark.parametrize(
    ("config", "gpus", "seen"),
    [
        ("parallelType: custom\nparallelLevel: 2\n", (2, 0), [0, "GPU-cc,GPU-aa", None, None]),
        ("parallelType: custom\nparallelLevel: 1\n", (1,), [0, "5", None, None]),
        ("parallelType: custom\nparallelLevel: 2\n", (), [None, "GPU-aa, 5,GPU-cc", None, None]),
        ("parallelType: tp\nparallelLevel: 1\n", (1,), [0, "5", "0", "1"]),
    ],
    ids=["two", "one", "on a cpu", "alone under torchrun"],
)
def test_a_worker_of_one_process_sees_its_own_gpus_numbered_from_zero(
    with_gpus: Fleet, config: str, gpus: tuple[int, ...], seen: list[object]
) -> None:
    changes = {"gpu_id": gpus[0] if gpus else None, "gpu_ids": gpus}
    loaded = load(with_gpus, VISIBLE, files={CONFIG: config}, manifest={"configFile": CONFIG}, **changes)
    submit(with_gpus, loaded.worker, b"x")
    body = answers(with_gpus)[0].body
    assert isinstance(body, bytes)
    assert json.loads(body) == seen


@pytest.fixture(scope="module")
def node_with_model_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("model-log"))
    fleet.start_node(model_log=str(model_log(fleet)))
    fleet.join()
    yield fleet
    fleet.close()


@pytest.fixture
def logged(node_with_model_log: Fleet) -> Iterator[Fleet]:
    """A fleet whose node keeps a model log."""
    node_with_model_log.beat()  # as above
    yield node_with_model_log
    node_with_model_log.stop_workers()


def model_log(fleet: Fleet) -> Path:
    return fleet.folder / "logs" / "model_log.log"


def test_what_workers_print_is_in_the_model_log_with_every_traceback(logged: Fleet) -> None:
    file = model_log(logged)
    for _ in range(2):
        start = order(logged, "def handle(data, context):\n    assert False, 'no weights'\n", version="2.0")
        logged.broker.send(logged.node, start)
        logged.broker.expect(m.WorkerExited)
    lines = file.read_text().splitlines()
    start_of = f"[INFO ] W-{start.worker_id}-m_2.0-stdout MODEL_LOG - "
    mine = [line.partition(start_of)[2] for line in lines if start_of in line]
    assert mine[0] == "Traceback (most recent call last):"
    assert any("in handle" in line for line in mine)
    assert mine[-1] == "AssertionError: no weights"
    assert sum("AssertionError: no weights" in line for line in lines) == 2


def test_the_model_log_tells_stdout_from_stderr_as_torchserve_does(logged: Fleet) -> None:
    code = """
import sys, threading
def fail():
    raise ValueError("in a thread")
def handle(data, context):
    if data is not None:
        print("printed")
        print("[METRICS]Printed.Count:1.0|#Level:Model|#hostname:h,1700000000", file=sys.stderr)
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        raise ValueError("in the handler")
"""
    file = model_log(logged)
    loaded = load(logged, code)
    submit(logged, loaded.worker, b"x")
    printed, _ = logged.broker.expect(m.NodeMeasured)
    assert [point.name for point in printed.points] == ["Printed"]
    for stream, text in (
        ("stdout", "printed"),
        ("stderr", "ValueError: in a thread"),
        ("stdout", "ValueError: in the handler"),
    ):
        eventually(partial(has_logged, file, loaded, stream, text))
    assert "[METRICS]" not in file.read_text()


def test_all_processes_of_a_worker_have_its_two_streams(logged: Fleet) -> None:
    code = """
import os
def handle(data, context):
    if data is not None:
        for fd in (1, 2):
            os.write(fd, b"written by %s\\n" % os.environ["RANK"].encode())
        return ["x"]
"""
    file = model_log(logged)
    files, manifest = {CONFIG: "parallelType: tp\ntorchrun: {nproc-per-node: 2}\n"}, {"configFile": CONFIG}
    loaded = load(logged, code, files=files, manifest=manifest)
    submit(logged, loaded.worker, b"x")
    for stream, rank in itertools.product(("stdout", "stderr"), (0, 1)):
        eventually(partial(has_logged, file, loaded, stream, f"written by {rank}"))


def has_logged(file: Path, loaded: Loaded, stream: str, text: str) -> bool:
    thread = f"W-{loaded.hello.worker_id}-{loaded.hello.model}_{loaded.hello.version}-{stream}"
    return file.exists() and f"{thread} MODEL_LOG - {text}\n" in file.read_text()


@pytest.mark.parametrize("config", ["", "useVenv: true\n"])
def test_what_an_archive_requires_is_installed_before_it_loads(joined: Fleet, config: str) -> None:
    wheels = joined.folder / "wheels"
    write_wheel(wheels, "tiny_one", "1.0", "WORD = 'one'\n")
    # Another version than the server's own, for this model alone.
    write_wheel(wheels, "psutil", "99.0", "WORD = 'shadow'\n")
    code = "import sys, tiny_one, psutil\n" + ECHO.replace(
        '[row.get("body") for row in data]', "[[tiny_one.WORD, getattr(psutil, 'WORD', 'ours'), sys.prefix]]"
    )
    names = "tiny_one" if config else "tiny_one\npsutil"
    start = order(
        joined,
        code,
        files={"requirements.txt": f"--no-index\n--find-links {wheels}\n{names}\n", CONFIG: config},
        manifest={"requirementsFile": "requirements.txt", "configFile": CONFIG},
        install_dependencies=True,
    )
    joined.broker.send(joined.node, start)
    joined.broker.until(lambda: joined.broker.all(m.HelloWorker))
    phases = [told.phase for told in joined.broker.all(m.WorkerProgressed)]
    assert phases.index("installing") < phases.index("loading")
    _, item = joined.broker.expect(m.HelloWorker)
    eventually(lambda: "Successfully installed" in joined.node_log())
    submit(joined, item.peer, b"x")
    body = answers(joined)[0].body
    assert isinstance(body, bytes)
    word, version, prefix = json.loads(body)
    assert (word, version) == ("one", "ours" if config else "shadow")
    assert (prefix == sys.prefix) is not bool(config)


def test_what_cannot_be_installed_ends_the_worker_with_the_installers_words(joined: Fleet) -> None:
    start = order(
        joined,
        ECHO,
        files={"requirements.txt": f"--no-index\n--find-links {joined.folder}\nnobody_has_this\n"},
        manifest={"requirementsFile": "requirements.txt"},
        install_dependencies=True,
    )
    joined.broker.send(joined.node, start)
    exited, _ = joined.broker.expect(m.WorkerExited)
    said = "Custom pip package installation failed for model m: Could not find a version that satisfies"
    assert exited.reason.startswith(said)
    assert any("nobody_has_this" in line for line in exited.last_lines)
    eventually(lambda: "nobody_has_this" in joined.node_log())


def test_what_an_archive_requires_can_be_installed_for_workers_to_come(joined: Fleet) -> None:
    wheels = joined.folder / "wheels"
    write_wheel(wheels, "tiny_two", "1.0", "")
    start = order(
        joined,
        "raise SystemExit('it is not to be loaded')",
        files={"requirements.txt": f"--no-index\n--find-links {wheels}\ntiny_two\n"},
        manifest={"requirementsFile": "requirements.txt"},
        install_dependencies=True,
        installs_only=True,
    )
    joined.broker.send(joined.node, start)
    exited, _ = joined.broker.expect(m.WorkerExited)
    assert exited.exit_code == 0
    assert {told.phase for told in joined.broker.all(m.WorkerProgressed)} <= {
        "fetching", "unpacking", "installing",
    }  # fmt: skip
    assert list(joined.folder.glob("**/environments/*/packages/tiny_two*"))


def test_requirements_are_left_alone_unless_they_are_to_be_installed(joined: Fleet) -> None:
    files = {"requirements.txt": "nobody_has_this\n"}
    loaded = load(joined, ECHO, files=files, manifest={"requirementsFile": "requirements.txt"})
    submit(joined, loaded.worker, b"x")
    assert answers(joined)[0].body == b"x"


WARMED = """
import os

def handle(data, context):
    if data is None:
        return None
    if data[0]["body"] == "bad":
        raise ValueError("bad pixel")
    if context.metrics is not None:
        context.metrics.add_counter("Calls", 1)
    print("ran", context.get_request_id())
    return ["ok"]

def is_ready():
    return os.path.exists(os.environ["READY_FILE"])
"""


def phases(fleet: Fleet) -> list[str]:
    return [said.phase for said in fleet.broker.all(m.WorkerProgressed)]


def test_a_worker_is_warmed_and_asked_before_it_says_hello(fleet: Fleet, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    fleet.variables["READY_FILE"] = str(ready)
    fleet.start_node()
    fleet.join()
    files, manifest = {CONFIG: "warmup: [{body: x, repeat: 2}]\n"}, {"configFile": CONFIG}
    fleet.broker.send(fleet.node, order(fleet, WARMED, files=files, manifest=manifest))
    fleet.broker.until(lambda: "waiting" in phases(fleet))
    assert phases(fleet)[-3:] == ["loading", "warming", "waiting"]
    eventually(lambda: "ran warmup-2" in fleet.node_log())
    assert not fleet.broker.all(m.HelloWorker)
    ready.touch()
    hello, item = fleet.broker.expect(m.HelloWorker)
    assert hello.why_not_ready == ""
    submit(fleet, item.peer, b"x")
    assert answers(fleet)[0].body == b"ok"
    measured = [point.name for said in fleet.broker.all(m.Measured) for point in said.points]
    assert measured.count("Calls") <= 1, "what the warm-up measured was told"
    ready.unlink()
    fleet.broker.expect(m.WorkerBeat, lambda beat: beat.why_not_ready == "is_ready() says no")
    ready.touch()
    fleet.broker.expect(m.WorkerBeat, lambda beat: beat.why_not_ready == "")


def test_a_warmup_that_fails_ends_the_worker_with_its_words(joined: Fleet) -> None:
    files, manifest = {CONFIG: "warmup: [{body: bad, content_type: text/plain}]\n"}, {"configFile": CONFIG}
    joined.broker.send(joined.node, order(joined, WARMED, files=files, manifest=manifest))
    exited, _ = joined.broker.expect(m.WorkerExited)
    assert exited.reason == "WarmupFailed: warm-up request 1 of 1 failed: ValueError: bad pixel"
    assert exited.exit_code == 1
    assert any("ValueError: bad pixel" in line for line in exited.last_lines)
