"""A real node, its launcher and its workers, against a broker that the test plays."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.support import eventually, eventually_async
from tests.worker.fake_broker import FakeBroker
from tests.worker.models import ECHO, start_worker, write_archive
from tests.worker.nodes import Fleet, answers, copies, is_alive, launcher_of, load, order, submit
from torchrelay.shared.settings import NodeSettings
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.redial_policy import BrokerPlace
from torchrelay.worker.common.broker_socket import BrokerSocket
from torchrelay.worker.node import node as node_module
from torchrelay.worker.node.node import Node, run

pytestmark = pytest.mark.integration

SLOW = """
import time
def handle(data, context):
    if data:
        print("batch begins")
        time.sleep(float(data[0]["body"]))
        return ["done"]
"""


def test_a_node_says_what_it_has_and_a_worker_answers_batches(fleet: Fleet) -> None:
    fleet.start_node(devices=("cpu",), slots=3)
    hello, item = fleet.broker.expect(m.HelloNode)
    assert (hello.name, hello.slots, hello.workers) == ("n", 3, ())
    assert [device.name for device in hello.devices] == ["cpu"]
    start = order(fleet, ECHO)
    fleet.broker.send(item.peer, start)
    worker, greeting = fleet.broker.expect(m.HelloWorker)
    assert (worker.worker_id, worker.node, worker.model, worker.archive) == (1, "n", "m", start.archive)
    submit(fleet, greeting.peer, b"small", b"x" * 100_000)
    assert [answer.body for answer in answers(fleet)] == [b"small", b"x" * 100_000]
    submit(fleet, greeting.peer, b"", lease=2)
    submit(fleet, greeting.peer, b"next", lease=3)
    assert [answer.body for answer in answers(fleet, lease=2)] == [b""]
    assert [answer.body for answer in answers(fleet, lease=3)] == [b"next"]
    fleet.broker.expect(m.WorkerBeat, lambda beat: not beat.leases)
    fleet.broker.expect(m.NodeBeat, lambda beat: dict(beat.memory).get(1, 0) > 10_000_000)


def test_a_killed_worker_is_reported_with_its_signal_and_last_lines(joined: Fleet) -> None:
    code = ECHO + "print('a line to remember', flush=True)\n"
    loaded = load(joined, code)
    os.kill(loaded.hello.pid, signal.SIGKILL)
    exited, _ = joined.broker.expect(m.WorkerExited)
    assert (exited.worker_id, exited.exit_code, exited.signal) == (loaded.hello.worker_id, None, 9)
    assert (exited.reason, exited.out_of_memory) == ("killed by signal 9", False)
    assert "a line to remember" in exited.last_lines
    eventually(lambda: 'line="a line to remember"' in joined.node_log())


def test_workers_that_end_leave_no_file_open_in_their_node_or_its_launcher(joined: Fleet) -> None:
    node = psutil.Process(joined.nodes[0].pid)

    def open_files() -> tuple[int, int]:
        return node.num_fds(), launcher_of(node).num_fds()

    def come_and_go() -> None:
        os.kill(load(joined).hello.pid, signal.SIGKILL)
        joined.broker.expect(m.WorkerExited)

    come_and_go()
    first = open_files()
    come_and_go()
    come_and_go()
    # What the last one had may be closed a moment after its end is told.
    eventually(lambda: all(now <= then for now, then in zip(open_files(), first, strict=True)))


@pytest.mark.parametrize(("ending", "code"), [("os._exit(4)", 4), ("sys.exit(3)", 3)])
def test_a_handler_that_exits_takes_its_worker_with_it(joined: Fleet, ending: str, code: int) -> None:
    loaded = load(joined, f"import os, sys\ndef handle(data, context):\n    if data:\n        {ending}\n")
    submit(joined, loaded.worker, b"x")
    exited, _ = joined.broker.expect(m.WorkerExited)
    assert (exited.exit_code, exited.signal, exited.reason) == (code, None, f"exited with {code}")


@pytest.mark.parametrize(
    ("code", "reason", "out_of_memory"),
    [
        (
            "def handle(data, context):\n    raise ValueError('cannot initialise')\n",
            "ValueError: cannot initialise",
            False,
        ),
        (
            "import a_library_nobody_has\n",
            "ModuleNotFoundError: No module named 'a_library_nobody_has'",
            False,
        ),
        ("def handle(data, context):\n    raise MemoryError('too large')\n", "MemoryError: too large", True),
        ("raise GeneratorExit('here')\n", "GeneratorExit: here", False),
    ],
)
def test_a_model_that_does_not_load_is_reported_with_the_first_cause(
    joined: Fleet, code: str, reason: str, out_of_memory: bool
) -> None:
    joined.broker.send(joined.node, order(joined, code))
    exited, _ = joined.broker.expect(m.WorkerExited)
    assert (exited.reason, exited.out_of_memory, exited.exit_code) == (reason, out_of_memory, 1)
    assert any(line.startswith("Traceback") for line in exited.last_lines)
    assert exited.last_lines[-1] == reason


def test_a_start_that_meets_a_fault_nobody_foresaw_is_reported(joined: Fleet) -> None:
    start = msgspec.structs.replace(order(joined, "handle = print"), archive_path="a\0b")
    joined.broker.send(joined.node, start)
    exited, _ = joined.broker.expect(m.WorkerExited)
    assert (exited.worker_id, exited.reason) == (start.worker_id, "ValueError: embedded null byte")
    eventually(lambda: "worker.not_started" in joined.node_log())


UNSPEAKABLE = """
class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no text")
def handle(data, context):
    if WHEN:
        raise Unspeakable
    return ["fine"]
"""


def test_an_exception_without_a_text_ends_a_load_with_its_name(joined: Fleet) -> None:
    joined.broker.send(joined.node, order(joined, UNSPEAKABLE.replace("WHEN", "data is None")))
    exited, _ = joined.broker.expect(m.WorkerExited)
    assert (exited.reason, exited.exit_code) == ("Unspeakable: <Unspeakable without a text>", 1)


def test_an_exception_without_a_text_fails_its_request_and_its_worker_goes_on(joined: Fleet) -> None:
    loaded = load(joined, UNSPEAKABLE.replace("WHEN", "data and data[0]['body'] == b'raise'"))
    submit(joined, loaded.worker, b"raise")
    assert [answer.status for answer in answers(joined)] == [503]
    submit(joined, loaded.worker, b"", lease=2)
    assert [answer.body for answer in answers(joined, lease=2)] == [b"fine"]


def test_a_worker_may_have_settings_of_any_size(joined: Fleet) -> None:
    large = (
        b"# " + b"x" * 500_000 + b"\nmodel_metrics: {counter: [{name: Own, unit: count, dimensions: []}]}\n"
    )
    code = """
def handle(data, context):
    if data is not None:
        return [context.metrics.cache_keys()]
"""
    other = load(joined)
    loaded = load(joined, code, metrics_config=large)
    submit(joined, loaded.worker, b"x")
    body = answers(joined)[0].body
    assert isinstance(body, bytes)
    assert json.loads(body) == ["counter:Own"]
    submit(joined, other.worker, b"still here", lease=2)
    assert answers(joined, 2)[0].body == b"still here"


def test_the_phases_on_the_way_up_are_told(joined: Fleet) -> None:
    joined.broker.send(joined.node, order(joined, ECHO))
    joined.broker.until(lambda: joined.broker.all(m.HelloWorker))
    phases = [(told.phase, told.pid) for told in joined.broker.all(m.WorkerProgressed)]
    hello = joined.broker.all(m.HelloWorker)[0]
    assert phases == [("fetching", 0), ("unpacking", 0), ("loading", hello.pid)]


def test_a_large_archive_comes_in_chunks_and_goes_on_where_it_was_cut(fleet: Fleet) -> None:
    folder = fleet.folder / "large"
    (folder / "unpacked").mkdir(parents=True)
    (folder / "unpacked" / "weights.bin").write_bytes(os.urandom(5_500_000))
    archive = write_archive(folder, {"h.py": ECHO})
    name = fleet.broker.keep(archive)
    start = start_worker(archive=name, archive_bytes=archive.stat().st_size)
    fleet.broker.serves_up_to = 3 << 20
    first = fleet.start_node()
    fleet.broker.send(fleet.join(), start)
    part = fleet.folder / "cache" / "archives" / f"{name}.part"
    fleet.broker.until(lambda: part.exists() and part.stat().st_size == 3 << 20)
    fleet.note_processes()
    first.kill()
    first.wait(5)
    fleet.broker.heard.clear()
    fleet.broker.serves_up_to = 1 << 60
    fleet.start_node()
    fleet.broker.send(fleet.join(), start)
    fleet.broker.until(lambda: fleet.broker.all(m.HelloWorker))
    offsets = [fetch.offset for fetch in fleet.broker.all(m.FetchArchive)]
    assert offsets == [3 << 20, 4 << 20, 5 << 20]
    assert (fleet.folder / "cache" / "archives" / f"{name}.mar").read_bytes() == archive.read_bytes()


def test_two_workers_of_one_archive_share_one_download(joined: Fleet) -> None:
    start = order(joined, ECHO)
    joined.broker.send(joined.node, start)
    joined.broker.send(joined.node, msgspec.structs.replace(start, worker_id=next(joined.worker_ids)))
    joined.broker.until(lambda: len({hello.worker_id for hello in joined.broker.all(m.HelloWorker)}) == 2)
    assert len(joined.broker.all(m.FetchArchive)) == 1


def test_two_nodes_of_one_host_share_one_download(fleet: Fleet) -> None:
    start = order(fleet, ECHO)
    fleet.start_node(name="a")
    fleet.start_node(name="b")
    for worker_id, node in enumerate([fleet.join(), fleet.join()]):
        fleet.broker.send(node, msgspec.structs.replace(start, worker_id=worker_id))
    fleet.broker.until(lambda: {hello.node for hello in fleet.broker.all(m.HelloWorker)} == {"a", "b"})
    assert len(fleet.broker.all(m.FetchArchive)) == 1


def test_an_archive_that_the_broker_has_not_is_reported(joined: Fleet) -> None:
    joined.broker.send(joined.node, start_worker(archive="1" * 64, archive_bytes=10))
    exited, _ = joined.broker.expect(m.WorkerExited)
    assert exited.reason == f"The broker has no such archive. ({'1' * 64})"
    assert (exited.exit_code, exited.signal) == (None, None)


def test_an_archive_that_comes_broken_is_not_unpacked(fleet: Fleet) -> None:
    start = order(fleet, ECHO)
    fleet.broker.archives[start.archive] = b"other bytes"
    fleet.start_node()
    fleet.broker.send(fleet.join(), start)
    exited, _ = fleet.broker.expect(m.WorkerExited)
    assert exited.reason.startswith("The archive came broken.")
    assert not list((fleet.folder / "cache" / "models").iterdir())


def test_after_a_broker_restart_node_and_worker_announce_themselves_without_a_reload(fleet: Fleet) -> None:
    loaded = load(fleet)
    fleet.broker.close()
    archives = fleet.broker.archives
    fleet.broker = FakeBroker(fleet.broker.address, epoch=2)
    fleet.broker.archives = archives
    hello, item = fleet.broker.expect(m.HelloNode)
    assert [(held.worker_id, held.pid) for held in hello.workers] == [(1, loaded.hello.pid)]
    assert item.epoch == 0
    fleet.broker.until(lambda: fleet.broker.peers >= {loaded.node, loaded.worker})
    submit(fleet, loaded.worker, b"still there")
    assert answers(fleet)[0].body == b"still there"
    assert fleet.broker.all(m.FetchArchive) == []


def test_a_broker_that_forgot_a_worker_is_told_again(joined: Fleet) -> None:
    loaded = load(joined)
    joined.broker.peers.discard(loaded.worker)
    hello, item = joined.greeted(loaded.hello.worker_id)
    assert (hello, item.peer) == (loaded.hello, loaded.worker)


def test_a_stopped_worker_finishes_its_batch_and_says_goodbye(joined: Fleet) -> None:
    loaded = load(joined, SLOW)
    submit(joined, loaded.worker, b"0.5")
    joined.broker.until(lambda: joined.has_printed(loaded.hello.worker_id, "batch begins"))
    joined.broker.send(loaded.node, m.StopWorker(loaded.hello.worker_id, False, "no longer wanted"))
    # The node has a connection of its own: what it says may come before its worker's last words.
    joined.broker.until(lambda: joined.broker.all(m.WorkerExited) and joined.broker.all(m.Bye))
    kinds = [type(item.message) for item in joined.broker.heard]
    assert kinds.index(m.Completed) < kinds.index(m.Bye)
    [exited] = joined.broker.all(m.WorkerExited)
    assert (exited.exit_code, exited.reason) == (0, "no longer wanted")


def test_a_worker_that_ignores_its_stop_is_killed_after_the_grace(fleet: Fleet) -> None:
    fleet.start_node(stop_grace_s=0.5)
    fleet.join()
    loaded = load(fleet, SLOW)
    submit(fleet, loaded.worker, b"60")
    fleet.broker.until(lambda: fleet.has_printed(loaded.hello.worker_id, "batch begins"))
    fleet.broker.send(loaded.node, m.StopWorker(loaded.hello.worker_id, False, "no longer wanted"))
    exited, _ = fleet.broker.expect(m.WorkerExited)
    assert (exited.signal, exited.reason, exited.out_of_memory) == (9, "no longer wanted", False)


def test_what_a_worker_started_dies_with_it(joined: Fleet) -> None:
    code = "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\nprint('pid', child.pid)\n" + ECHO
    loaded = load(joined, code)
    child = psutil.Process(loaded.hello.pid).children()[0]
    joined.broker.send(loaded.node, m.StopWorker(loaded.hello.worker_id, False, ""))
    joined.broker.expect(m.WorkerExited)
    eventually(lambda: not is_alive(child))


def test_a_worker_without_a_place_leaves_by_itself(joined: Fleet) -> None:
    loaded = load(joined)
    joined.broker.send(loaded.worker, m.Leave("not registered"))
    exited, _ = joined.broker.expect(m.WorkerExited)
    assert (exited.exit_code, exited.reason) == (0, "exited with 0")


def test_a_node_without_a_place_stops_with_an_error(fleet: Fleet) -> None:
    node = fleet.start_node()
    fleet.broker.send(fleet.join(), m.Leave("another protocol"))
    fleet.note_processes()
    assert node.wait(10) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_says_goodbye_and_stops_its_workers_in_order(fleet: Fleet, number: signal.Signals) -> None:
    loaded = load(fleet)
    fleet.nodes[0].send_signal(number)
    _, item = fleet.broker.expect(m.Bye)
    assert item.peer == loaded.node
    exited, _ = fleet.broker.expect(m.WorkerExited)
    assert (exited.exit_code, exited.reason) == (0, "its node stops")
    assert fleet.nodes[0].wait(10) == 0
    assert not [process for process in fleet.seen if is_alive(process)]


def test_a_killed_node_leaves_no_process_behind(fleet: Fleet) -> None:
    loaded = load(fleet, "import subprocess\nsubprocess.Popen(['sleep', '60'])\n" + ECHO)
    names = {process.name() for process in fleet.seen}
    assert "sleep" in names
    assert loaded.hello.pid in {process.pid for process in fleet.seen}
    fleet.nodes[0].kill()
    fleet.nodes[0].wait(5)
    eventually(lambda: not [process for process in fleet.seen if is_alive(process)])


def test_a_killed_launcher_takes_its_workers_along_and_another_one_takes_over(fleet: Fleet) -> None:
    loaded = load(fleet)
    launcher = launcher_of(psutil.Process(fleet.nodes[0].pid))
    launcher.kill()
    exited, _ = fleet.broker.expect(m.WorkerExited)
    assert exited.reason == "its launcher exited with -9"
    assert not exited.of_itself
    eventually(lambda: not psutil.pid_exists(loaded.hello.pid))
    fleet.broker.send(loaded.node, order(fleet, ECHO, worker_id=2))
    fleet.greeted(2)


def test_a_launcher_that_hangs_is_replaced_and_its_workers_go_on(fleet: Fleet) -> None:
    loaded = load(fleet)
    launcher = launcher_of(psutil.Process(fleet.nodes[0].pid))
    launcher.suspend()
    fleet.broker.send(loaded.node, order(fleet, ECHO, worker_id=2))
    exited, _ = fleet.broker.expect(m.WorkerExited)
    assert (exited.worker_id, exited.of_itself) == (2, False)
    assert exited.reason == "its launcher hangs, and has not started it"
    fleet.broker.send(loaded.node, order(fleet, ECHO, worker_id=3))
    fleet.greeted(3)
    submit(fleet, loaded.worker, b"still here")
    assert answers(fleet)[0].body == b"still here"
    fleet.broker.send(loaded.node, m.StopWorker(loaded.hello.worker_id, True, "not needed"))
    exited, _ = fleet.broker.expect(m.WorkerExited)
    assert (exited.worker_id, exited.reason) == (loaded.hello.worker_id, "it ended while its launcher hung")
    eventually(lambda: not is_alive(launcher))


def test_a_worker_that_is_to_end_ends_though_its_launcher_hangs(fleet: Fleet) -> None:
    loaded = load(fleet)
    worker = psutil.Process(loaded.hello.pid)
    launcher = launcher_of(psutil.Process(fleet.nodes[0].pid))
    launcher.suspend()
    fleet.broker.send(loaded.node, m.StopWorker(loaded.hello.worker_id, True, "not needed"))
    fleet.broker.expect(m.WorkerExited)
    eventually(lambda: not is_alive(worker) and not is_alive(launcher))
    fleet.broker.send(loaded.node, order(fleet, ECHO, worker_id=2))
    fleet.greeted(2)


@pytest.mark.parametrize("victim", ["node", "launcher", "worker"])
def test_what_a_handler_has_started_ends_with_what_is_killed(fleet: Fleet, victim: str) -> None:
    # It doesn't stop when told to.
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    loaded = load(
        fleet, f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {code!r}])\n" + ECHO
    )
    node = psutil.Process(fleet.nodes[0].pid)
    launcher = launcher_of(node)
    worker = psutil.Process(loaded.hello.pid)
    [helper] = worker.children()
    {"node": node, "launcher": launcher, "worker": worker}[victim].kill()
    eventually(lambda: not is_alive(helper))


def test_what_a_handler_has_put_into_a_session_of_its_own_ends_with_the_node(fleet: Fleet) -> None:
    started = "subprocess.Popen(['sleep', '600'], start_new_session=True)"
    loaded = load(fleet, f"import subprocess\n{started}\n" + ECHO)
    worker = psutil.Process(loaded.hello.pid)
    [helper] = worker.children()
    worker.kill()
    fleet.broker.expect(m.WorkerExited)
    launcher = launcher_of(psutil.Process(fleet.nodes[0].pid))
    assert helper.ppid() == launcher.pid  # nobody else's
    fleet.nodes[0].kill()
    eventually(lambda: not is_alive(helper))


def test_what_workers_leave_behind_is_no_zombie_of_the_launchers(fleet: Fleet, tmp_path: Path) -> None:
    daemon = f"""
import os
if os.fork() == 0:
    os.setsid()
    with open({str(tmp_path / "pid")!r}, "w") as file:
        file.write(f"{{os.getpid()}}.")
"""
    load(fleet, f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {daemon!r}])\n" + ECHO)
    file = tmp_path / "pid"
    eventually(lambda: file.exists() and file.read_text().endswith("."))
    pid = int(file.read_text().rstrip("."))
    eventually(lambda: not psutil.pid_exists(pid))


def test_above_its_limit_the_cache_drops_models_that_no_worker_uses(fleet: Fleet) -> None:
    fleet.start_node(cache_limit_bytes=1)
    fleet.join()
    first, second = load(fleet), load(fleet)
    fleet.broker.send(fleet.node, m.StopWorker(first.hello.worker_id, True, "no longer wanted"))
    fleet.broker.expect(m.WorkerExited)
    third = load(fleet)
    eventually(lambda: copies(fleet).get(first.hello.archive) is None)
    assert copies(fleet) == {second.hello.archive: 1, third.hello.archive: 1}
    submit(fleet, second.worker, b"still here")
    assert answers(fleet)[0].body == b"still here"


def test_a_node_measures_its_host_as_soon_as_it_has_joined_and_again(fleet: Fleet) -> None:
    fleet.start_node(metric_time_interval_s=0.2)
    fleet.broker.until(lambda: len(fleet.broker.all(m.NodeMeasured)) >= 2)
    for measured in fleet.broker.all(m.NodeMeasured):
        names = {point.name for point in measured.points}
        assert {"CPUUtilization", "DiskUtilization", "MemoryUsed"} <= names
        assert measured.gpus is not None


class FailsAtFirst:
    """Measures a host, and raises the first time."""

    def __init__(self) -> None:
        self.readings = 0

    def read(self) -> m.NodeMeasured:
        self.readings += 1
        if self.readings == 1:
            raise ValueError("a driver says nonsense")
        return m.NodeMeasured("h", (m.MetricPoint("CPUUtilization", "gauge", "Percent", 1.0, (), 0),), ())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_node_that_once_could_not_measure_its_host_measures_again(fleet: Fleet) -> None:
    broker, metrics_reader = fleet.broker, FailsAtFirst()
    settings = NodeSettings(
        broker_address=broker.address,
        name="n",
        cache_dir=str(fleet.folder / "cache"),
        metric_time_interval_s=0.1,
    )
    running = asyncio.create_task(Node(settings, metrics_reader.read).run())

    def has_measured() -> bool:
        broker.pump()
        return bool(broker.all(m.NodeMeasured))

    await eventually_async(has_measured)
    assert metrics_reader.readings >= 2
    [hello, *_] = [item.peer for item in broker.heard if isinstance(item.message, m.HelloNode)]
    broker.send(hello, m.Leave("the test is over"))
    assert await running == 1


async def test_what_others_fill_the_disk_with_takes_the_place_of_unused_models(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker has to start for it."""
    monkeypatch.setattr(node_module, "TIDY_INTERVAL_S", 0.1)
    broker, cache = fleet.broker, fleet.folder / "cache"
    (cache / "archives").mkdir(parents=True)
    unused = cache / "archives" / f"{'a' * 64}.mar"
    unused.write_bytes(bytes(100))
    settings = NodeSettings(
        broker_address=broker.address, name="n", cache_dir=str(cache), cache_limit_bytes=1
    )
    running = asyncio.create_task(Node(settings).run())

    def is_gone() -> bool:
        broker.pump()
        return not unused.exists()

    await eventually_async(is_gone)
    [hello, *_] = [item.peer for item in broker.heard if isinstance(item.message, m.HelloNode)]
    broker.send(hello, m.Leave("the test is over"))
    assert await running == 1


def test_a_link_that_was_closed_sends_nothing(fleet: Fleet) -> None:
    link = BrokerSocket(BrokerPlace((fleet.broker.address,)), "node")
    link.close(0)
    assert not link.send(m.NodeBeat(()), 1)
    assert link.receive() is None


def test_a_node_that_no_broker_answers_says_for_whom_it_waits(fleet: Fleet) -> None:
    fleet.start_node(broker_address=f"ipc://{fleet.folder}/nobody")
    eventually(lambda: "broker.awaited" in fleet.node_log())
    assert f"broker=ipc://{fleet.folder}/nobody" in fleet.node_log()


def test_torch_is_not_imported_by_the_node_itself() -> None:
    script = "import sys; from torchrelay.worker.node import node; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_node_that_can_not_use_its_folders_says_so_and_does_not_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    settings = NodeSettings(
        broker_address=f"ipc://{tmp_path}/broker", name="n", cache_dir=f"{tmp_path}/file/cache"
    )
    assert run(settings) == 1
    (record,) = caplog.records
    assert (record.message, record.exc_info) == ("node.not_started", None)
    assert "file" in vars(record)["reason"]


def test_a_node_that_is_told_to_stop_waits_until_its_workers_have_been_replaced(fleet: Fleet) -> None:
    node = fleet.start_node(leave_grace_s=600.0)
    fleet.join()
    loaded = load(fleet)
    node.send_signal(signal.SIGTERM)
    leaves, _ = fleet.broker.expect(m.NodeLeaves)
    assert 0 < leaves.grace_ms <= 600_000
    submit(fleet, loaded.worker, b"hi")
    fleet.broker.expect(m.Completed)
    assert node.poll() is None
    fleet.broker.send(loaded.node, m.StopWorker(loaded.hello.worker_id, False, "replaced"))
    fleet.broker.until(lambda: node.poll() is not None)
    assert node.returncode == 0
    kinds = [type(item.message) for item in fleet.broker.heard if item.peer == loaded.node]
    assert kinds.index(m.WorkerExited) < kinds.index(m.Bye)


def test_a_node_that_is_told_to_stop_twice_waits_for_nobody(fleet: Fleet) -> None:
    node = fleet.start_node(leave_grace_s=600.0)
    fleet.join()
    load(fleet)
    node.send_signal(signal.SIGTERM)
    fleet.broker.expect(m.NodeLeaves)
    node.send_signal(signal.SIGTERM)
    fleet.broker.until(lambda: node.poll() is not None)
    assert node.returncode == 0
    kinds = [type(item.message) for item in fleet.broker.heard if item.peer == fleet.node]
    assert kinds.index(m.Bye) < kinds.index(m.WorkerExited)


def test_a_node_that_was_killed_is_followed_by_one_that_can_tell_its_mark(fleet: Fleet) -> None:
    node = fleet.start_node()
    first, _ = fleet.broker.expect(m.HelloNode)
    node.kill()
    fleet.broker.heard.clear()
    fleet.start_node()
    fleet.broker.until(lambda: fleet.broker.all(m.HelloNode))
    assert first.mark
    assert fleet.broker.all(m.HelloNode)[-1].mark == first.mark
