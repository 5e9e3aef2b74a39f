import subprocess
import sys

import pytest

#: Holds blocks of 4 MB with small ones between, as bodies and what belongs to them; frees the large ones.
PROGRAM = """
from torchrelay.shared.processes import returned_memory

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))

first = b"x" * (30 << 20)
del first
before = resident()
held = [(bytes([1]) * (4 << 20), [bytes([1]) * 1000 for _ in range(100)]) for _ in range(50)]
small = [pair[1] for pair in held]
most = resident()
del held
returned_memory.give_back_free_memory()
print(most - before, resident() - before)
"""


@pytest.mark.integration
def test_a_process_gives_back_what_large_bodies_took() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    most, left = map(int, done.stdout.split())
    assert most > 200_000_000
    assert left < 30_000_000


#: Makes and frees what the bodies of a batch take, and counts the pages that the kernel had to give for it.
BATCHES = """
import resource
from torchrelay.shared.processes import returned_memory

returned_memory.keep_some_free_memory()

def batch():
    bodies = [bytes([1]) * 150_000 for _ in range(16)]

batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.integration
def test_the_bodies_of_a_batch_have_the_memory_of_those_before() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BATCHES], capture_output=True, text=True, check=True, timeout=60
    )
    pages_of_one = 16 * 150_000 // 4096
    assert int(done.stdout) < pages_of_one
