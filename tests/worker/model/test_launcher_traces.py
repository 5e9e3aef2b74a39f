"""What handlers find in real workers: processes that they start themselves, and torch's threads.

Those are as many as the environment of the node says, or what a handler says before it imports torch.
"""

import ast
import io
from collections.abc import Iterator

import pytest
import torch

from tests.worker.nodes import Fleet, answers, load, submit
from torchrelay.shared.wire import messages as m

pytestmark = pytest.mark.integration

#: Names of ours, and some that what we import could be mistaken for.
CLASHING = dict.fromkeys(("launcher.py", "process.py"), "raise ImportError('it is the archive's')\n")
CODE = """
import concurrent.futures, multiprocessing, os, pathlib, random, signal, subprocess, sys
import torch
from torch.utils.data import DataLoader
from numbers_of import Numbers, square

def endless(begun):
    begun and begun.set()
    while True:
        signal.pause()

def pool(method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.map(square, range(3))

def executor(method):
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        return list(pool.map(square, range(3)))

def loader(method):
    batches = DataLoader(Numbers(), batch_size=2, num_workers=1, multiprocessing_context=method)
    return [int(number) for batch in batches for number in batch]

def torch_spawn():
    import torch.multiprocessing
    torch.multiprocessing.spawn(square, nprocs=1)
    return "spawned"

def loky():
    from joblib import Parallel, delayed
    return Parallel(n_jobs=2)(delayed(square)(number) for number in range(3))

def folder(method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.apply(os.getcwd) == os.getcwd()

def ended(number, begun=None):
    process = multiprocessing.get_context("fork").Process(target=endless, args=(begun,))
    process.start()
    begun and begun.wait()
    os.kill(process.pid, number)
    process.join(10)
    code = process.exitcode
    process.kill()
    return code

def interrupted():
    process = subprocess.Popen(["sleep", "60"])
    process.send_signal(signal.SIGINT)
    return process.wait(10)

def main():
    shown = sys.modules["__main__"]
    return shown.__spec__, hasattr(shown, "__file__"), sys.argv

def chance():
    return random.random(), torch.rand(1).item(), multiprocessing.current_process().authkey.hex()

def handle(data, context):
    if data is not None:
        return [repr(eval(bytes(data[0]["body"]).decode()))]
"""
NUMBERS = """
import torch
class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 3
    def __getitem__(self, index):
        return square(torch.tensor(index))
def square(number):
    return number * number
"""


@pytest.fixture(scope="module")
def lasting_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet whose launcher has torch, as it has unless told otherwise."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    fleet.start_node(preload=("torch",))
    fleet.node = fleet.join()
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def starts(lasting_fleet: Fleet) -> "Starts":
    return Starts(lasting_fleet)


class Starts:
    """A worker whose handler evaluates what it is sent."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.lease = 0
        self.worker = load(fleet, CODE, files={"numbers_of.py": NUMBERS, **CLASHING}).worker

    def told(self, expression: str) -> str:
        self.lease += 1
        submit(self.fleet, self.worker, expression.encode(), lease=self.lease)
        lease = self.lease
        self.fleet.broker.until(
            lambda: any(item.message for item in self.fleet.broker.heard if _answers(item.message, lease))
        )
        [answer] = answers(self.fleet, lease)
        assert answer.error is None, answer.error
        assert isinstance(answer.body, bytes)
        return answer.body.decode()


def _answers(message: m.Message, lease: int) -> bool:
    return isinstance(message, m.Completed) and message.lease == lease


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        *((f"pool({method!r})", "[0, 1, 4]") for method in ("fork", "spawn", "forkserver")),
        ("executor('spawn')", "[0, 1, 4]"),
        *((f"loader({method!r})", "[0, 1, 4]") for method in ("fork", "spawn")),
        ("torch_spawn()", "'spawned'"),
        ("loky()", "[0, 1, 4]"),
    ],
)
def test_processes_that_a_handler_starts_find_the_archive_and_nothing_of_ours(
    starts: Starts, expression: str, expected: str
) -> None:
    assert starts.told(expression) == expected


def test_the_program_is_empty(starts: Starts) -> None:
    assert starts.told("main()") == "(None, False, [''])"
    assert starts.told("[name for name in sys.modules if name.startswith('torchrelay')]") == "[]"


def test_what_most_handlers_need_beside_torch_is_there_with_it(starts: Starts) -> None:
    assert starts.told("'ts.torch_handler.base_handler' in sys.modules") == "True"
    assert starts.told("'torch.utils.serialization.config' in sys.modules") == "True"


FREES = """
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

# Blocks of 1 MB with smaller ones between, as weights that are copied into a model: too large for the gaps
# that the launcher's heap has, and not so large that glibc maps them by themselves.
held = [(bytes([1]) * (1 << 20), bytes([1]) * 100_000) for _ in range(50)]
kept = [pair[1] for pair in held]
del held
AT_FIRST = resident()

def handle(data, context):
    if data is not None:
        return [str(AT_FIRST - resident())]
"""


def test_what_is_freed_while_a_model_is_loaded_is_given_back(lasting_fleet: Fleet) -> None:
    loaded = load(lasting_fleet, FREES)
    submit(lasting_fleet, loaded.worker, b"x", lease=loaded.hello.worker_id)
    body = answers(lasting_fleet, lease=loaded.hello.worker_id)[0].body
    assert isinstance(body, bytes)
    assert int(body) > 40_000_000


def test_a_handler_may_choose_how_its_processes_start(starts: Starts) -> None:
    chooses = Starts(starts.fleet)
    assert chooses.told("multiprocessing.set_start_method('spawn')") == "None"


def test_spawned_processes_start_in_the_archives_folder(starts: Starts) -> None:
    assert starts.told("folder('spawn')") == "True"


def test_processes_that_a_handler_forks_can_be_ended(starts: Starts) -> None:
    assert starts.told("ended(signal.SIGTERM)") == "-15", "also right after its start"
    assert starts.told("ended(signal.SIGTERM, multiprocessing.Event())") == "-15"
    assert starts.told("ended(signal.SIGINT, multiprocessing.Event())") == "1"
    assert starts.told("1 + 1") == "2", "it was not this process that was told to stop"


def test_programs_that_a_handler_starts_can_be_interrupted(starts: Starts) -> None:
    assert starts.told("interrupted()") == "-2"


def test_two_workers_of_one_launcher_draw_other_numbers_and_have_other_keys(starts: Starts) -> None:
    first = ast.literal_eval(starts.told("chance()"))
    second = ast.literal_eval(Starts(starts.fleet).told("chance()"))
    assert all(one != other for one, other in zip(first, second, strict=True))


TELLS_NUMPY = """
import sys
IS_THERE = "numpy.random" in sys.modules
def handle(data, context):
    if data is not None:
        import numpy
        return [f"{IS_THERE} {numpy.random.random()}"]
"""


@pytest.mark.parametrize("is_shared", [False, True])
def test_two_workers_draw_other_numbers_with_numpy_and_have_it_only_where_it_is_used(
    fleet: Fleet, is_shared: bool
) -> None:
    fleet.start_node(preload=("torch", *["numpy.random"] * is_shared))
    fleet.join()
    said = set()
    for _ in range(2):
        loaded = load(fleet, TELLS_NUMPY)
        submit(fleet, loaded.worker, b"x", lease=loaded.hello.worker_id)
        body = answers(fleet, lease=loaded.hello.worker_id)[0].body
        assert isinstance(body, bytes)
        assert body.startswith(str(is_shared).encode())
        said.add(body)
    assert len(said) == 2


TELLS = """
import torch
def handle(data, context):
    if data is not None:
        return [{"threads": torch.get_num_threads(), "between": torch.get_num_interop_threads()}]
"""
#: As a library has it that is imported before torch.
SETS = 'import os\nos.environ["OMP_NUM_THREADS"] = "3"\n'


def threads(fleet: Fleet, code: str, **changes: object) -> tuple[int, int]:
    loaded = load(fleet, code, **changes)  # type: ignore[arg-type]  # a test names its own fields
    submit(fleet, loaded.worker, b"x", lease=loaded.hello.worker_id)
    body = answers(fleet, lease=loaded.hello.worker_id)[0].body
    assert isinstance(body, bytes)
    assert b"threads" in body, body
    said = dict(part.strip().split(": ") for part in body.decode().strip("{}\n ").split(","))
    return int(said['"threads"']), int(said['"between"'])


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (SETS, 3),
        (SETS + "import torch\ntorch.set_num_threads(2)\n", 2),
        # Also where that is what it was.
        (SETS + "import torch\ntorch.set_num_threads(torch.get_num_threads())\n", None),
        ("", None),
    ],
)
def test_a_handler_has_the_last_word_about_its_threads(
    joined: Fleet, before: str, expected: int | None
) -> None:
    shared = threads(joined, TELLS)[0]
    assert threads(joined, before + TELLS)[0] == (expected or shared)


def test_a_handler_may_set_what_torch_allows_once_only(joined: Fleet) -> None:
    assert threads(joined, "import torch\ntorch.set_num_interop_threads(3)\n" + TELLS)[1] == 3


def test_the_environments_number_counts_unless_the_operator_names_one(fleet: Fleet) -> None:
    fleet.variables = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    fleet.start_node(preload=("torch",))
    fleet.join()
    assert threads(fleet, TELLS)[0] == 1
    # What it is without them is never 3 on a machine of any size.
    fleet.variables = {"OMP_NUM_THREADS": "3"}
    fleet.start_node(name="other", preload=("torch",))
    fleet.join()
    from_environment = threads(fleet, TELLS)[0]
    fleet.start_node(name="third", threads_per_worker=4, preload=("torch",))
    fleet.join()
    assert (from_environment in (2, 3), threads(fleet, TELLS)[0]) == (True, 4)


def test_the_operators_number_counts_where_torch_is_imported_by_the_handler_alone(fleet: Fleet) -> None:
    fleet.variables = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
    fleet.start_node(threads_per_worker=1, preload=())
    fleet.join()
    assert threads(fleet, TELLS)[0] == 1


TELLS_MODULES = """
import sys
AT_FIRST = [name in sys.modules for name in ("torch", "colorsys", "turtle")]
def handle(data, context):
    if data is not None:
        import torch
        return [f"{AT_FIRST} {torch.rand(1).item()}", torch.ones(1)][:len(data)]
"""


def test_workers_share_what_is_named_and_a_name_that_nothing_has_is_in_the_log(fleet: Fleet) -> None:
    fleet.start_node(preload=("no_such_module", "colorsys"))
    fleet.join()
    loaded = load(fleet, TELLS_MODULES)
    submit(fleet, loaded.worker, b"x", b"y")
    said, tensor = (answer.body for answer in answers(fleet))
    assert isinstance(said, bytes)
    assert said.startswith(b"[False, True, False]"), "torch wasn't named, and is there for who imports it"
    assert isinstance(tensor, bytes)
    assert torch.load(io.BytesIO(tensor)).tolist() == [1.0]
    [line] = [line for line in fleet.node_log().splitlines() if "node.not_preloaded" in line]
    assert "wanted=no_such_module" in line
    assert "No module named 'no_such_module'" in line
