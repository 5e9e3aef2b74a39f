"""Threads of torch: by the environment of the node, and by what a handler says before it imports torch."""

import pytest

from tests.worker.nodes import Fleet, answers, load, submit

pytestmark = pytest.mark.integration

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
    fleet.start_node()
    fleet.join()
    assert threads(fleet, TELLS)[0] == 1
    # What it is without them is never 3 on a machine of any size.
    fleet.variables = {"OMP_NUM_THREADS": "3"}
    fleet.start_node(name="other")
    fleet.join()
    from_environment = threads(fleet, TELLS)[0]
    fleet.start_node(name="third", threads_per_worker=4)
    fleet.join()
    assert (from_environment in (2, 3), threads(fleet, TELLS)[0]) == (True, 4)
